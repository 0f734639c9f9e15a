//! Goes through the keys that begin with the store's prefix.

use redis::Value;
use sessile::Handle;

use crate::node::{Node, Refusal};

/// How many keys a server examines at once. It serves nothing else meanwhile, for about a microsecond a key.
const COUNT: u64 = 1000;

/// What a key of the store is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Session(Handle),
    /// The right of one request to a session.
    Lease,
    /// The sessions of a user.
    Index,
    /// What the store writes to wait for replicas.
    Mark,
    /// Not sessile's.
    Foreign,
}

impl Kind {
    pub(crate) fn of(key: &[u8], prefix: &str) -> Self {
        let Some(name) = std::str::from_utf8(key)
            .ok()
            .and_then(|key| key.strip_prefix(prefix))
        else {
            return Self::Foreign;
        };
        if let Ok(handle) = name.parse() {
            return Self::Session(handle);
        }
        let is_lease = || {
            let handle = name.strip_suffix(":lease");
            handle.is_some_and(|handle| handle.parse::<Handle>().is_ok())
        };
        let is_index = || {
            name.strip_prefix("of:{")
                .is_some_and(|rest| rest.ends_with('}'))
        };
        // On a cluster a number follows, which puts the key into a slot.
        let is_mark = || {
            let number = name
                .strip_prefix("mark")
                .or_else(|| name.strip_prefix("probe"));
            number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        };
        match () {
            () if is_lease() => Self::Lease,
            () if is_index() => Self::Index,
            () if is_mark() => Self::Mark,
            () => Self::Foreign,
        }
    }
}

/// A scan of one server.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    node: &'a Node,
    pattern: String,
    /// `None` at the end.
    cursor: Option<Vec<u8>>,
    /// The keys that were examined, roughly.
    pub(crate) examined: u64,
    /// The keys of the server.
    pub(crate) of: u64,
}

impl<'a> Scan<'a> {
    pub(crate) async fn new(node: &'a Node, prefix: &str) -> Result<Self, Refusal> {
        Ok(Self {
            node,
            // No character that a prefix may contain is special in a pattern.
            pattern: format!("{prefix}*"),
            cursor: Some(b"0".to_vec()),
            examined: 0,
            of: node.ask(&["DBSIZE"]).await?,
        })
    }

    /// The next keys, which may be none; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, Refusal> {
        let Some(cursor) = self.cursor.take() else {
            return Ok(None);
        };
        let mut command = redis::cmd("SCAN");
        command
            .arg(cursor)
            .arg("MATCH")
            .arg(&self.pattern)
            .arg("COUNT")
            .arg(COUNT);
        let (next, keys): (Vec<u8>, Vec<Vec<u8>>) = self.node.send(&command).await?;
        self.examined = self.of.min(self.examined + COUNT);
        match next == b"0" {
            true => self.examined = self.of,
            false => self.cursor = Some(next),
        }
        Ok(Some(keys))
    }
}

/// The times to live of some keys, in milliseconds; `None` for a key that is gone meanwhile.
pub(crate) async fn times_to_live(
    node: &Node,
    keys: &[&[u8]],
) -> Result<Vec<Option<i64>>, Refusal> {
    let mut pipeline = redis::pipe();
    for key in keys {
        pipeline.cmd("PTTL").arg(key);
    }
    let answers = node.send_all(pipeline).await?;
    let left = answers.iter().map(|answer| match answer {
        Value::Int(-2) => None,
        Value::Int(left) => Some(*left),
        _ => None,
    });
    Ok(left.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_key_says_what_it_is() {
        let handle = "AAAAAAAAAAAAAAAAAAAAAA";
        let session = Kind::Session(handle.parse().unwrap());
        for (name, expected) in [
            (handle.to_owned(), session),
            (format!("{handle}:lease"), Kind::Lease),
            ("x:lease".to_owned(), Kind::Foreign),
            ("of:{abc}".to_owned(), Kind::Index),
            ("of:abc".to_owned(), Kind::Foreign),
            ("mark".to_owned(), Kind::Mark),
            ("mark17".to_owned(), Kind::Mark),
            ("probe3".to_owned(), Kind::Mark),
            ("market".to_owned(), Kind::Foreign),
            (String::new(), Kind::Foreign),
        ] {
            let key = format!("shop:{name}");
            assert_eq!(Kind::of(key.as_bytes(), "shop:"), expected, "{name}");
        }
        assert_eq!(Kind::of(b"shop:\xff", "shop:"), Kind::Foreign);
    }
}
