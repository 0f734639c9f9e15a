//! Which primary of a cluster has which slot.

use std::fmt;

use crc::{CRC_16_XMODEM, Crc};
use redis::Value;

const SLOTS: u16 = 16384;

/// The checksum of the [Redis Cluster
/// specification](https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).
const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// The slot of a key: that of the part in braces, if there is one. The keys of an index have one; `key_prefix` allows no braces.
pub(crate) fn slot_of(key: &str) -> u16 {
    let in_braces = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    let hashed = match in_braces {
        Some((tag, _)) if !tag.is_empty() => tag,
        _ => key,
    };
    CRC.checksum(hashed.as_bytes()) % SLOTS
}

/// A key in this slot: the prefix and a number.
pub(crate) fn key_in(slot: u16, prefix: &str) -> String {
    let mut digest = CRC.digest();
    digest.update(prefix.as_bytes());
    // Every slot has a number of at most six digits, and most have one of five.
    (0_u32..)
        .map(|number| number.to_string())
        .find(|number| {
            let mut digest = digest.clone();
            digest.update(number.as_bytes());
            digest.finalize() % SLOTS == slot
        })
        .map_or_else(|| prefix.to_owned(), |number| format!("{prefix}{number}"))
}

/// The address of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    pub(crate) fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// Parses the address of a redirection. A node that does not know its own host omits it; then the host is the one that the
    /// request was sent to.
    pub(crate) fn parse(text: &str, asked: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self::new(usable(host, asked)?, port.parse().ok()?))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// A host to connect to. Nodes send `?` if they should announce a host name and have none.
fn usable<'a>(host: &'a str, asked: &'a str) -> Option<&'a str> {
    match host {
        "" => Some(asked),
        "?" => None,
        host => Some(host),
    }
}

/// Consecutive slots, and the primary that has them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) primary: Address,
}

/// Parses the reply to `CLUSTER SLOTS`: ranges with their first slot, their last, and their nodes, the primary first, each with
/// host, port and name. Unusable ranges are left out.
pub(crate) fn ranges(answer: Value, asked: &str) -> Vec<Range> {
    let Value::Array(ranges) = answer else {
        return Vec::new();
    };
    ranges
        .iter()
        .filter_map(|range| range_of(range, asked))
        .collect()
}

fn range_of(range: &Value, asked: &str) -> Option<Range> {
    let Value::Array(range) = range else {
        return None;
    };
    let [
        Value::Int(first),
        Value::Int(last),
        Value::Array(primary),
        ..,
    ] = range.as_slice()
    else {
        return None;
    };
    let [host, Value::Int(port), ..] = primary.as_slice() else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        Value::Nil => "",
        _ => return None,
    };
    let slot = |slot: i64| u16::try_from(slot).ok().filter(|slot| *slot < SLOTS);
    Some(Range {
        first: slot(*first)?,
        last: slot(*last)?,
        primary: Address::new(usable(host, asked)?, u16::try_from(*port).ok()?),
    })
}

/// The known primaries, and the slots of each.
pub(crate) struct Map<N> {
    primaries: Vec<(Address, N)>,
    /// For each slot, the index of its primary.
    owners: Vec<Option<u16>>,
}

impl<N> Default for Map<N> {
    fn default() -> Self {
        Self {
            primaries: Vec::new(),
            owners: vec![None; usize::from(SLOTS)],
        }
    }
}

impl<N: Clone> Map<N> {
    pub(crate) fn is_empty(&self) -> bool {
        self.primaries.is_empty()
    }

    /// All known primaries, with or without slots.
    pub(crate) fn primaries(&self) -> impl Iterator<Item = &N> {
        self.primaries.iter().map(|(_, node)| node)
    }

    /// The primaries that have slots, each with one of its slots.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (u16, &N)> {
        let slot = |number: usize| {
            let owns =
                |owner: &Option<u16>| owner.is_some_and(|owner| usize::from(owner) == number);
            u16::try_from(self.owners.iter().position(owns)?).ok()
        };
        let primaries = self.primaries.iter().enumerate();
        primaries.filter_map(move |(number, (_, node))| Some((slot(number)?, node)))
    }

    pub(crate) fn owner(&self, slot: u16) -> Option<&N> {
        let number = *self.owners.get(usize::from(slot))?;
        let (_, node) = self.primaries.get(usize::from(number?))?;
        Some(node)
    }

    fn position(&self, address: &Address) -> Option<usize> {
        self.primaries
            .iter()
            .position(|(known, _)| known == address)
    }

    fn number(&mut self, address: &Address, open: impl FnOnce() -> N) -> u16 {
        let number = self.position(address).unwrap_or_else(|| {
            self.primaries.push((address.clone(), open()));
            self.primaries.len() - 1
        });
        // There are fewer primaries than slots.
        u16::try_from(number).unwrap_or(u16::MAX)
    }

    /// The primary at this address; a new one has no slots yet.
    pub(crate) fn get_or_open(
        &mut self,
        address: &Address,
        open: impl FnOnce() -> N,
    ) -> Option<&N> {
        let number = self.number(address, open);
        let (_, node) = self.primaries.get(usize::from(number))?;
        Some(node)
    }

    /// Notes that a node has redirected requests for this slot to this address.
    pub(crate) fn move_to(&mut self, slot: u16, address: &Address, open: impl FnOnce() -> N) {
        let number = self.number(address, open);
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = Some(number);
        }
    }

    /// Replaces the map by the reply of a node. A slot that the reply does not mention keeps its primary, which will know more.
    /// Primaries without slots are dropped.
    pub(crate) fn replace(&mut self, ranges: &[Range], mut open: impl FnMut(&Address) -> N) {
        let before = std::mem::take(self);
        for range in ranges {
            let number = self.number(&range.primary, || {
                let known = before.position(&range.primary);
                known.map_or_else(
                    || open(&range.primary),
                    |number| before.primaries[number].1.clone(),
                )
            });
            let (first, last) = (usize::from(range.first), usize::from(range.last));
            if let Some(owners) = self.owners.get_mut(first..=last) {
                owners.fill(Some(number));
            }
        }
        for (slot, number) in (0..SLOTS).zip(before.owners) {
            let is_missing = self.owners[usize::from(slot)].is_none();
            if let Some(number) = number.filter(|_| is_missing) {
                let (address, node) = &before.primaries[usize::from(number)];
                self.move_to(slot, address, || node.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_same_slot_as_in_redis() {
        // As `CLUSTER KEYSLOT` returns.
        for (key, slot) in [
            ("123456789", 12739),
            ("foo", 12182),
            ("sessile:probe", 12161),
            ("sessile:of:{foo}", 12182),
            ("sessile:of:{foo}:reserved", 12182),
            ("{foo", 13308),
            ("{}foo", 9500),
            ("", 0),
        ] {
            assert_eq!(slot_of(key), slot, "{key}");
        }
    }

    #[test]
    fn there_is_a_key_in_every_slot() {
        for slot in [0, 1, 8191, 12182, SLOTS - 1] {
            let key = key_in(slot, "sessile:mark:");
            assert!(key.starts_with("sessile:mark:"));
            assert_eq!(slot_of(&key), slot, "{key}");
        }
    }

    #[test]
    fn the_address_of_a_redirection_is_parsed() {
        let address = |host: &str, port| Some(Address::new(host, port));
        for (text, parsed) in [
            ("10.0.0.1:6379", address("10.0.0.1", 6379)),
            ("::1:6379", address("::1", 6379)),
            ("node-2.example:7000", address("node-2.example", 7000)),
            (":7000", address("asked", 7000)),
            ("?:7000", None),
            ("node", None),
            ("node:x", None),
            ("node:70000", None),
            ("", None),
        ] {
            assert_eq!(Address::parse(text, "asked"), parsed, "{text}");
        }
        assert_eq!(Address::new("::1", 1).to_string(), "[::1]:1");
        assert_eq!(Address::new("h", 1).to_string(), "h:1");
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let name = Value::BulkString("name".into());
        let primary = Value::Array(vec![host, Value::Int(port), name]);
        Value::Array(vec![Value::Int(first), Value::Int(last), primary])
    }

    #[test]
    fn usable_ranges_of_a_reply_are_parsed() {
        let text = |text: &str| Value::BulkString(text.into());
        let answer = Value::Array(vec![
            range(0, 9, text("a"), 1),
            range(10, 19, text(""), 2),
            range(20, 29, Value::Nil, 3),
            range(30, 39, text("?"), 4),
            range(40, 16384, text("a"), 5),
            range(-1, 3, text("a"), 6),
            range(50, 59, text("a"), 65536),
            Value::Array(vec![Value::Int(1)]),
            Value::Nil,
            range(60, 16383, text("::1"), 7),
        ]);
        let read = |first, last, host: &str, port| Range {
            first,
            last,
            primary: Address::new(host, port),
        };
        assert_eq!(
            ranges(answer, "asked"),
            [
                read(0, 9, "a", 1),
                read(10, 19, "asked", 2),
                read(20, 29, "asked", 3),
                read(60, 16383, "::1", 7),
            ]
        );
        assert_eq!(ranges(Value::Okay, "asked"), []);
    }

    #[test]
    fn a_map_follows_redirections_and_replies() {
        let range = |first, last, port| Range {
            first,
            last,
            primary: Address::new("h", port),
        };
        let mut opened = 0;
        let mut map = Map::default();
        let mut open = |_: &Address| {
            opened += 1;
            opened
        };
        assert!(map.is_empty() && map.owner(0).is_none());
        map.replace(
            &[range(0, 99, 1), range(200, 299, 1), range(300, 16383, 2)],
            &mut open,
        );
        let owners = |map: &Map<i32>, slots: &[u16]| -> Vec<Option<i32>> {
            slots.iter().map(|slot| map.owner(*slot).copied()).collect()
        };
        assert_eq!(
            owners(&map, &[0, 99, 100, 250, 300, 16383, 16384]),
            [Some(1), Some(1), None, Some(1), Some(2), Some(2), None]
        );
        // A new node takes over one slot.
        map.move_to(250, &Address::new("h", 3), || open(&Address::new("h", 3)));
        map.move_to(99, &Address::new("h", 2), || 99);
        assert_eq!(owners(&map, &[249, 250, 99]), [Some(1), Some(3), Some(2)]);
        // The first has no slots any more; the others are kept.
        map.replace(&[range(0, 299, 3), range(300, 16383, 2)], &mut open);
        assert_eq!(owners(&map, &[0, 300]), [Some(3), Some(2)]);
        assert_eq!(map.primaries().copied().collect::<Vec<_>>(), [3, 2]);
        assert_eq!(map.owners().collect::<Vec<_>>(), [(0, &3), (300, &2)]);
        assert_eq!(opened, 3);
        // A node that a slot is migrating to.
        assert_eq!(map.get_or_open(&Address::new("h", 4), || 4), Some(&4));
        assert_eq!(map.get_or_open(&Address::new("h", 4), || 5), Some(&4));
        assert_eq!(map.get_or_open(&Address::new("h", 2), || 5), Some(&2));
        assert_eq!(map.owners().count(), 2);
        // The reply of a node that does not know all slots.
        map.replace(&[range(100, 199, 4)], |_: &Address| 99);
        assert_eq!(owners(&map, &[0, 150, 300]), [Some(3), Some(4), Some(2)]);
    }
}
