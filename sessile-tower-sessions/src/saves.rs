//! What requests have saved, for those that save again.
//!
//! `save` gets a record that it cannot change, so what travels in it is what the request *loaded*, even when it saves a second
//! time. A value that was set to 2 by the first save, and is 1 again as it was loaded, would then look unchanged. Here is
//! remembered in what way the values of the last save differed from those that were loaded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::hidden::Loaded;
use crate::merge::{Data, Digest, changed_keys};
use crate::stored::Version;

/// How many saves each generation holds. An entry takes about 100 bytes for each key that was changed.
const GENERATION: usize = 16_384;

/// The last save of each request; those of requests that have saved longest ago are forgotten.
#[derive(Default)]
pub(crate) struct Saves {
    generations: Mutex<[HashMap<u64, Save>; 2]>,
}

#[derive(Clone)]
struct Save {
    version: Option<Version>,
    /// `None` if the key was removed.
    changed: Vec<(String, Option<Digest>)>,
}

impl Saves {
    /// Remembers that these values were saved. `version` is the version that they have now, or `None` if the stored values are
    /// not exactly these.
    pub(crate) fn remember(&self, loaded: &Loaded, saved: &Data, version: Option<Version>) {
        let digest = |key: &String| (key.clone(), saved.get(key).map(Digest::of));
        let changed = changed_keys(&loaded.digests, saved);
        let changed = changed.into_iter().map(digest).collect();
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if generations[0].len() >= GENERATION {
            let young = std::mem::take(&mut generations[0]);
            generations[1] = young;
        }
        generations[0].insert(loaded.load, Save { version, changed });
    }

    /// What the request knows of the stored session: what it loaded, or what it has saved since.
    pub(crate) fn since(&self, mut loaded: Loaded) -> Loaded {
        let generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let save = generations.iter().find_map(|saves| saves.get(&loaded.load));
        let Some(Save { version, changed }) = save.cloned() else {
            return loaded;
        };
        loaded.version = version;
        for (key, digest) in changed {
            match digest {
                Some(digest) => loaded.digests.insert(key, digest),
                None => loaded.digests.remove(&key),
            };
        }
        loaded
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::merge::digests;

    fn data(value: serde_json::Value) -> Data {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_last_save_is_what_the_next_one_is_compared_with() {
        let saves = Saves::default();
        let loaded = Loaded::of(&data(json!({"a": 1, "b": 1, "c": 1})), Version::random());
        assert_eq!(saves.since(loaded.clone()), loaded, "nothing was saved");

        for saved in [
            json!({"a": 2, "c": 1, "d": 1}),
            json!({"a": 1, "b": 1, "c": 1}),
            json!({}),
        ] {
            let version = Some(Version::random());
            saves.remember(&loaded, &data(saved.clone()), version);
            let since = saves.since(loaded.clone());
            assert_eq!(since.digests, digests(&data(saved)));
            assert_eq!(since.version, version);
        }
        let other = Loaded::of(&Data::new(), Version::random());
        assert_eq!(
            saves.since(other.clone()),
            other,
            "another load is another request"
        );
    }

    #[test]
    fn old_saves_are_forgotten_and_recent_ones_are_not() {
        let saves = Saves::default();
        let loads: Vec<_> = (0..3 * GENERATION)
            .map(|_| Loaded::of(&Data::new(), Version::random()))
            .collect();
        for loaded in &loads {
            saves.remember(loaded, &data(json!({"a": 1})), None);
        }
        let remembers = |loaded: &Loaded| saves.since(loaded.clone()) != *loaded;
        assert!(!remembers(&loads[0]));
        assert!(loads[2 * GENERATION..].iter().all(remembers));
        let kept = saves.generations.lock().unwrap();
        assert!(kept.iter().all(|saves| saves.len() <= GENERATION));
    }
}
