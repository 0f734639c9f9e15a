//! Turns the notifications of a server into what has become of sessions.
//!
//! One write of sessile is several notifications in a row: `new`, `set` and `expire` for a new session, `set` and `expire` for a
//! change, `expire` alone for a renewal.

use serde::Serialize;
use sessile::Handle;

/// What has become of a session. The names are those of the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Event {
    Created,
    Changed,
    /// Created or changed: the server does not report new keys.
    Written,
    Renewed,
    Destroyed,
    Expired,
    Evicted,
}

impl Event {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Written => "written",
            Self::Renewed => "renewed",
            Self::Destroyed => "destroyed",
            Self::Expired => "expired",
            Self::Evicted => "evicted",
        }
    }

    /// Whether there is a session after it.
    pub(crate) fn leaves_session(self) -> bool {
        matches!(
            self,
            Self::Created | Self::Changed | Self::Written | Self::Renewed
        )
    }
}

/// The notifications of one server, in order.
#[derive(Debug)]
pub(crate) struct Notices {
    has_new: bool,
    /// The write whose notifications are coming in.
    open: Option<(Handle, Part)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    New,
    Set,
}

impl Notices {
    /// `has_new` says whether the server reports new keys.
    pub(crate) fn new(has_new: bool) -> Self {
        Self {
            has_new,
            open: None,
        }
    }

    pub(crate) fn next(&mut self, handle: Handle, name: &str) -> Option<Event> {
        let open = self.open.take().filter(|(open, _)| *open == handle);
        let part = open.map(|(_, part)| part);
        match (name, part) {
            ("new", _) => {
                self.open = Some((handle, Part::New));
                Some(Event::Created)
            }
            ("set", Some(Part::New)) => {
                self.open = Some((handle, Part::Set));
                None
            }
            ("set", _) => {
                self.open = Some((handle, Part::Set));
                Some(match self.has_new {
                    true => Event::Changed,
                    false => Event::Written,
                })
            }
            ("expire", Some(_)) => None,
            ("expire", None) => Some(Event::Renewed),
            ("del", _) => Some(Event::Destroyed),
            ("expired", _) => Some(Event::Expired),
            ("evicted", _) => Some(Event::Evicted),
            _ => None,
        }
    }
}

/// The handle in the channel of a notification, `__keyspace@0__:sessile:<handle>`. `None` for a lease or an index.
pub(crate) fn handle_in(channel: &str, prefix: &str) -> Option<Handle> {
    let (_, key) = channel.split_once("__:")?;
    key.strip_prefix(prefix)?.parse().ok()
}

/// The flags that are needed: keyspace channels (`K`); deletions and times to live (`g`), strings (`$`), expirations (`x`) and
/// evictions (`e`).
const NEEDED: &str = "Kg$xe";
/// New keys, without which a creation cannot be told from a change.
const NEW: char = 'n';
/// What `A` stands for.
const ALL: &str = "g$lshzxetd";

/// What `notify-keyspace-events` has to be, if it is not sufficient.
pub(crate) fn wanted_flags(present: &str) -> Option<String> {
    let has = |flag: char| present.contains(flag) || (present.contains('A') && ALL.contains(flag));
    let missing: String = NEEDED.chars().filter(|flag| !has(*flag)).collect();
    (!missing.is_empty()).then(|| {
        let new = if has_new(present) { "" } else { "n" };
        format!("{present}{missing}{new}")
    })
}

pub(crate) fn has_new(flags: &str) -> bool {
    flags.contains(NEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_write_is_one_event() {
        let one: Handle = "AAAAAAAAAAAAAAAAAAAAAA".parse().unwrap();
        let two: Handle = "BAAAAAAAAAAAAAAAAAAAAA".parse().unwrap();
        let mut notices = Notices::new(true);
        for (handle, name, expected) in [
            (one, "new", Some(Event::Created)),
            (one, "set", None),
            (one, "expire", None),
            (one, "expire", Some(Event::Renewed)),
            (one, "set", Some(Event::Changed)),
            (one, "expire", None),
            // A change that keeps the time to live.
            (one, "set", Some(Event::Changed)),
            (two, "expire", Some(Event::Renewed)),
            (two, "new", Some(Event::Created)),
            (one, "set", Some(Event::Changed)),
            (one, "expire", None),
            (one, "del", Some(Event::Destroyed)),
            (two, "expired", Some(Event::Expired)),
            (one, "evicted", Some(Event::Evicted)),
            (one, "persist", None),
        ] {
            assert_eq!(notices.next(handle, name), expected, "{name}");
        }
        let mut without_new = Notices::new(false);
        assert_eq!(without_new.next(one, "set"), Some(Event::Written));
        assert_eq!(without_new.next(one, "expire"), None);
    }

    #[test]
    fn the_flags_of_others_stay() {
        for (present, expected) in [
            ("", Some("Kg$xen")),
            ("Kg$xen", None),
            ("Kg$xe", None),
            ("AK", None),
            ("AE", Some("AEKn")),
            ("Ex", Some("ExKg$en")),
            ("KAn", None),
        ] {
            assert_eq!(wanted_flags(present).as_deref(), expected, "{present}");
        }
    }

    #[test]
    fn only_sessions_are_shown() {
        let handle = "AAAAAAAAAAAAAAAAAAAAAA";
        for (channel, is_session) in [
            (format!("__keyspace@0__:shop:{handle}"), true),
            (format!("__keyspace@15__:shop:{handle}"), true),
            (format!("__keyspace@0__:shop:{handle}:lease"), false),
            ("__keyspace@0__:shop:of:{x}".to_owned(), false),
            (format!("__keyspace@0__:{handle}"), false),
        ] {
            assert_eq!(
                handle_in(&channel, "shop:").is_some(),
                is_session,
                "{channel}"
            );
        }
    }
}
