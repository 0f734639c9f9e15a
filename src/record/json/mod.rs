//! One value of a session as JSON. A value that can be written can be read back, bit for bit.
//!
//! `Json::encode` writes a value, with `finite.rs: check` for floats that JSON cannot hold; `Json::decode` reads it, large values
//! with `tape.rs: decode` if the feature `simd-json` is on; `Json::push` appends to a list.

pub(crate) mod finite;
pub(crate) mod map_key;
#[cfg(feature = "simd-json")]
pub(crate) mod tape;

use std::{fmt, io};

use bytes::{BufMut as _, Bytes, BytesMut};
use bytestring::ByteString;
use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed};
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter};
use serde_json::value::RawValue;

use crate::error::json::{JsonError, JsonErrorKind};

/// From this size in bytes on, simd-json is a fifth faster for structs, and not slower for any shape of value, including the copy
/// that it needs (`cargo bench --bench json`).
#[cfg(any(test, feature = "simd-json"))]
const SIMD_FROM: usize = 4096;

/// How deep a value may be nested. It is serde_json's limit, so that both parsers reject the same values.
pub(crate) const MAX_DEPTH: usize = 127;

/// Decodes one value of a session. Only this function chooses a JSON parser; the choice affects only the speed.
fn decode_value<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    #[cfg(feature = "simd-json")]
    if json.len() >= SIMD_FROM
        && let Some(value) = tape::decode(json, MAX_DEPTH)
    {
        return Ok(value);
    }
    serde_json::from_slice(json)
}

/// One value of a session, as JSON without surrounding white space.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Json(Bytes);

impl Json {
    pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, JsonError> {
        Self::encode_within(value, MAX_DEPTH)
    }

    /// Encodes an item of a list, which is nested one level deeper.
    pub(crate) fn encode_item<T: Serialize + ?Sized>(value: &T) -> Result<Self, JsonError> {
        Self::encode_within(value, MAX_DEPTH - 1)
    }

    fn encode_within<T: Serialize + ?Sized>(value: &T, levels: usize) -> Result<Self, JsonError> {
        let mut json = Vec::with_capacity(128);
        value
            .serialize(&mut Serializer::with_formatter(&mut json, EitherPrecision))
            // A float that is not finite fails here if it is the key of a map; otherwise serde_json writes `null` for it.
            .map_err(|_| {
                finite::check(value)
                    .err()
                    .unwrap_or(JsonErrorKind::Unwritable)
            })
            .map_err(JsonError::in_value)?;
        if json.windows(4).any(|bytes| bytes == b"null") {
            finite::check(value).map_err(JsonError::in_value)?;
        }
        if depth(&json) > levels {
            return Err(JsonError::in_value(JsonErrorKind::TooDeep {
                limit: MAX_DEPTH,
            }));
        }
        Ok(Self(json.into()))
    }

    /// A part of a stored record.
    pub(crate) fn part_of(record: &Bytes, raw: &RawValue) -> Self {
        Self(record.slice_ref(raw.get().as_bytes()))
    }

    /// A value as a part of the text that it was split from, whose memory it then shares.
    pub(crate) fn part(text: &ByteString, value: &str) -> Self {
        Self(text.as_bytes().slice_ref(value.as_bytes()))
    }

    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, JsonError> {
        decode_value(&self.0).map_err(|error| self.error(&error))
    }

    /// Decodes with a seed of serde. Uses serde_json at any size, since a seed cannot be used twice.
    pub(crate) fn decode_seed<'de, S: DeserializeSeed<'de>>(
        &'de self,
        seed: S,
    ) -> Result<S::Value, JsonError> {
        let mut json = serde_json::Deserializer::from_slice(&self.0);
        let value = seed.deserialize(&mut json);
        let value = value.and_then(|value| json.end().map(|()| value));
        value.map_err(|error| self.error(&error))
    }

    fn error(&self, error: &serde_json::Error) -> JsonError {
        let mut error = JsonError::reading(error);
        // serde_json reports a value that is too deep as a syntax error, but stored values are valid JSON.
        if error.kind == JsonErrorKind::Syntax && depth(&self.0) > MAX_DEPTH {
            error.kind = JsonErrorKind::TooDeep { limit: MAX_DEPTH };
        }
        error
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Appends an item to this list, whose other items stay byte for byte. On an error the value stays as it was.
    ///
    /// Appends in place if there is no other reference to the value, so that many items cost no more than their bytes.
    pub(crate) fn push(&mut self, item: &Self) -> Result<(), JsonError> {
        let inner = match &self.0[..] {
            [b'[', inner @ .., b']'] => inner.trim_ascii_end(),
            _ => return Err(JsonError::not_a_list()),
        };
        let (is_empty, end) = (inner.is_empty(), inner.len() + 1);
        let list = std::mem::take(&mut self.0);
        let mut list = list.try_into_mut().unwrap_or_else(|shared| {
            let mut list = BytesMut::with_capacity(shared.len() + item.len() + 1);
            list.extend_from_slice(&shared);
            list
        });
        list.truncate(end);
        if !is_empty {
            list.put_u8(b',');
        }
        list.extend_from_slice(&item.0);
        list.put_u8(b']');
        self.0 = list.freeze();
        Ok(())
    }
}

/// Writes an `f32` so that it comes back unchanged, even if it is read as an `f64` first, as serde does within a flattened struct
/// or an untagged enum. The shortest decimal may lie so near the middle of two `f32` that rounding it twice gives the other one.
struct EitherPrecision;

impl Formatter for EitherPrecision {
    fn write_f32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        let mut shortest = Vec::with_capacity(16);
        CompactFormatter.write_f32(&mut shortest, value)?;
        let double: Option<f64> = str::from_utf8(&shortest)
            .ok()
            .and_then(|text| text.parse().ok());
        #[allow(
            clippy::cast_possible_truncation,
            reason = "serde rounds in the same way"
        )]
        if double.is_some_and(|double| (double as f32).to_bits() == value.to_bits()) {
            writer.write_all(&shortest)
        } else {
            CompactFormatter.write_f64(writer, f64::from(value))
        }
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({} bytes)", self.0.len())
    }
}

/// How deep lists and objects are nested in valid JSON.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    deepest
}

fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// How many bytes a string takes as JSON.
pub(crate) fn string_len(text: &str) -> usize {
    let written = |byte: u8| match byte {
        b'"' | b'\\' | 0x08 | b'\t' | b'\n' | 0x0c | b'\r' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    2 + text.bytes().map(written).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::record::Record;
    use crate::record::change::Change;
    use crate::record::change::tests::now;
    use crate::record::log::ChangeLog;
    use crate::record::tests::record;
    use crate::record::value::{decode, encode, encode_item};
    use crate::store::Stored;

    fn json(text: &str) -> Json {
        Json(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[cfg(feature = "simd-json")]
    /// The same list below and above the size from which on simd-json decodes it.
    fn small_and_large(item: &str) -> [String; 2] {
        let padding = "0,".repeat(SIMD_FROM);
        [format!("[{item}]"), format!("[{padding}{item}]")]
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Unit;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Wrapped(f32);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Nothing,
        Circle(f64),
        Line(i128, Option<f32>),
        Named { side: u128, name: String },
    }

    /// serde reads the floats in this enum as `f64` first.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Named { single: f32 },
        Bare(f32),
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Singles {
        single: f32,
        singles: Vec<f32>,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Flattened {
        #[serde(flatten)]
        singles: Singles,
        untagged: Untagged,
    }

    /// Too long to be shown when a test fails.
    #[derive(Clone, PartialEq, Serialize, Deserialize)]
    struct Padding(String);

    impl Debug for Padding {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} bytes", self.0.len())
        }
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Everything {
        f64s: Vec<f64>,
        f32s: Vec<f32>,
        wrapped: Wrapped,
        unit: Unit,
        signed: (i8, i64, i128),
        unsigned: (u8, u64, u128),
        text: String,
        letter: char,
        flag: bool,
        maybe: Option<Vec<Option<f64>>>,
        by_text: BTreeMap<String, Shape>,
        by_number: BTreeMap<i64, Vec<Shape>>,
        by_large_number: BTreeMap<u128, bool>,
        by_letter: BTreeMap<char, u8>,
        shapes: Vec<Shape>,
        padding: Padding,
    }

    fn f64s() -> impl Strategy<Value = f64> {
        use proptest::num::f64::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
        let prices = (0_u32..100_000).prop_map(|cents| f64::from(cents) / 100.0 * 1.19);
        prop_oneof![POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO, prices]
    }

    fn f32s() -> impl Strategy<Value = f32> {
        use proptest::num::f32::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
        // Its shortest decimal lies so near the middle of two `f32` that rounding it by way of an `f64` gives the other one.
        let rounded_twice = Just(7.038_531e-26_f32);
        prop_oneof![
            8 => POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO,
            1 => rounded_twice,
            1 => (0_u16..10_000).prop_map(|cents| f32::from(cents) / 100.0 * 1.19),
        ]
    }

    fn shape() -> impl Strategy<Value = Shape> {
        prop_oneof![
            Just(Shape::Nothing),
            f64s().prop_map(Shape::Circle),
            (any::<i128>(), proptest::option::of(f32s()))
                .prop_map(|(from, to)| Shape::Line(from, to)),
            (any::<u128>(), any::<String>()).prop_map(|(side, name)| Shape::Named { side, name }),
        ]
    }

    fn everything() -> impl Strategy<Value = Everything> {
        use proptest::collection::{btree_map, vec};
        let numbers = (
            vec(f64s(), 0..8),
            vec(f32s(), 0..8),
            f32s(),
            any::<(i8, i64)>(),
            // Half of the values fit into 64 bits, as most do in practice.
            prop_oneof![any::<i128>(), any::<i64>().prop_map(i128::from)],
            any::<(u8, u64)>(),
            prop_oneof![any::<u128>(), any::<u64>().prop_map(u128::from)],
        );
        let texts = (any::<String>(), any::<char>(), any::<bool>());
        let nested = (
            proptest::option::of(vec(proptest::option::of(f64s()), 0..4)),
            btree_map(any::<String>(), shape(), 0..3),
            btree_map(any::<i64>(), vec(shape(), 0..3), 0..3),
            btree_map(any::<u128>(), any::<bool>(), 0..3),
            btree_map(any::<char>(), any::<u8>(), 0..3),
            vec(shape(), 0..4),
        );
        (numbers, texts, nested).prop_map(|(numbers, texts, nested)| Everything {
            f64s: numbers.0,
            f32s: numbers.1,
            wrapped: Wrapped(numbers.2),
            unit: Unit,
            signed: (numbers.3.0, numbers.3.1, numbers.4),
            unsigned: (numbers.5.0, numbers.5.1, numbers.6),
            text: texts.0,
            letter: texts.1,
            flag: texts.2,
            maybe: nested.0,
            by_text: nested.1,
            by_number: nested.2,
            by_large_number: nested.3,
            by_letter: nested.4,
            shapes: nested.5,
            padding: Padding(String::new()),
        })
    }

    /// Checks that a value survives the calls that write it, and the store.
    fn survives(value: &Everything) -> Result<(), TestCaseError> {
        let key = || "k".to_owned();
        let rewritten = value.clone();
        let log = ChangeLog::from(vec![
            Change::Insert {
                key: key().into(),
                value: encode("k", value).unwrap(),
            },
            Change::Push {
                key: "list".into(),
                value: encode_item("list", value).unwrap(),
            },
            Change::Update {
                key: key().into(),
                rewrite: std::sync::Arc::new(move |present| {
                    let present: Everything = decode("k", present.unwrap())?;
                    assert_eq!(format!("{present:?}"), format!("{rewritten:?}"));
                    encode("k", &present)
                }),
            },
            Change::Push {
                key: "list".into(),
                value: encode_item("list", value).unwrap(),
            },
        ]);
        let mut record = record();
        log.apply(&mut record, &now()).unwrap();
        for _ in 0..2 {
            let stored = Stored::new(record.encode().unwrap(), None);
            record = Record::decode(stored.value()).unwrap();
        }
        // `Debug` distinguishes 0.0 from -0.0, which `PartialEq` does not.
        let decoded: Everything = decode("k", &record.data["k"]).unwrap();
        prop_assert_eq!(format!("{decoded:?}"), format!("{value:?}"));
        prop_assert!(decoded.padding == value.padding);
        let list: Vec<Everything> = decode("list", &record.data["list"]).unwrap();
        prop_assert_eq!(format!("{list:?}"), format!("{:?}", [value, value]));
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn every_value_comes_back_bit_for_bit_at_any_size(mut value in everything()) {
            survives(&value)?;
            value.padding.0 = "é\"\n".repeat(SIMD_FROM / 4);
            survives(&value)?;
        }
    }

    #[test]
    fn six_hundred_prices_with_tax_come_back_unchanged() {
        let prices: Vec<f64> = (1..=600_u32).map(|n| f64::from(n) * 0.99 * 1.19).collect();
        for prices in [&prices[..], &prices[..100]] {
            let decoded: Vec<f64> = Json::encode(prices).unwrap().decode().unwrap();
            assert!(
                prices
                    .iter()
                    .map(|price| price.to_bits())
                    .eq(decoded.iter().map(|price| price.to_bits()))
            );
        }
    }

    fn decode_alike<T: DeserializeOwned + Debug>(texts: &[&str]) {
        for text in texts {
            let expected =
                serde_json::from_str::<T>(text).map_err(|error| JsonError::reading(&error));
            // White space is the only padding that does not change the value.
            let padded = text.replacen('[', &format!("[{}", " ".repeat(SIMD_FROM)), 1);
            let (small, large) = (json(text).decode::<T>(), json(&padded).decode::<T>());
            assert_eq!(format!("{small:?}"), format!("{expected:?}"), "{text}");
            match (&expected, &large) {
                (Ok(_), _) => assert_eq!(format!("{large:?}"), format!("{expected:?}"), "{text}"),
                (Err(expected), Err(large)) => assert_eq!(large.kind, expected.kind, "{text}"),
                (Err(_), Ok(_)) => panic!("{text}: {large:?}"),
            }
        }
    }

    #[test]
    fn both_parsers_give_the_same_value_and_refuse_the_same() {
        let numbers = [
            "[-0]",
            "[0]",
            "[-0.0]",
            "[1e400]",
            "[1e-400]",
            "[7.038531e-26]",
            "[3.4028236e38]",
            "[1.00000017881393432617187499]",
            "[1.00000017881393421514957253748434595763683319091796875001]",
            "[18446744073709551616]",
            "[-9223372036854775809]",
            "[340282366920938463463374607431768211456]",
            "[123456789012345678901234567890.5]",
            "[256]",
            "[1.5]",
            "[null]",
            "[\"1\"]",
            "[]",
        ];
        decode_alike::<Vec<f32>>(&numbers);
        decode_alike::<Vec<f64>>(&numbers);
        decode_alike::<Vec<u8>>(&numbers);
        decode_alike::<Vec<i64>>(&numbers);
        decode_alike::<Vec<i128>>(&numbers);
        decode_alike::<Vec<u128>>(&numbers);
        decode_alike::<Vec<Option<f64>>>(&numbers);
        decode_alike::<serde_json::Value>(&numbers);
        decode_alike::<Vec<String>>(&["[\"\\ud800\"]", "[\"\\ud83d\\ude00\"]", "[\"\\u0000\"]"]);
        let lists = [
            "[[1,2]]",
            "[[1,2,3]]",
            "[[1]]",
            "[[1,2,3],[4,5,6]]",
            "[[1,2],[3,4]]",
        ];
        decode_alike::<Vec<(u8, u8)>>(&lists);
        decode_alike::<Vec<serde::de::IgnoredAny>>(&lists);
        let objects = [
            r#"[{"1":2}]"#,
            r#"[{" 1":2}]"#,
            r#"[{"01":2}]"#,
            r#"[{"-0":2}]"#,
            r#"[{"1.5":2}]"#,
            r#"[{"true":1}]"#,
            r#"[{"a":1,"a":2}]"#,
            r#"[{"Circle":1.5}]"#,
            r#"[{"Circle":1.5,"Nothing":null}]"#,
            r#"[{"Nothing":null}]"#,
            r#"["Nothing"]"#,
            r#"["Circle"]"#,
            r#"[{"Line":[1,2.5]}]"#,
            r#"[{"Line":[1,2.5,3]}]"#,
            r#"[{"Named":{"side":1,"name":"x","more":[{}]}}]"#,
            r#"[{"Named":[1,"x"]}]"#,
        ];
        decode_alike::<Vec<Shape>>(&objects);
        decode_alike::<Vec<BTreeMap<u8, u8>>>(&objects);
        decode_alike::<Vec<BTreeMap<i128, u8>>>(&objects);
        decode_alike::<Vec<BTreeMap<bool, u8>>>(&objects);
        decode_alike::<Vec<BTreeMap<Option<String>, u8>>>(&objects);
        decode_alike::<Vec<BTreeMap<String, serde_json::Value>>>(&objects);
        // Only serde_json can leave values raw, which must work for large values too.
        decode_alike::<Vec<Box<RawValue>>>(&objects);
    }

    #[cfg(feature = "simd-json")]
    #[test]
    fn large_values_are_decoded_by_simd_json() {
        let [_, large] = small_and_large("7.5");
        assert!(tape::decode::<Vec<f64>>(large.as_bytes(), MAX_DEPTH).is_some());
        assert!(tape::decode::<Vec<f32>>(large.as_bytes(), MAX_DEPTH).is_some());
        assert!(tape::decode::<Vec<f32>>(b"[7.038531e-26]", MAX_DEPTH).is_none());
        assert!(tape::decode::<BTreeMap<i32, Shape>>(br#"{"1":{"Line":[1,0.5]}}"#, 127).is_some());
    }

    /// A map of one entry, whose key is a float.
    struct KeyedBy(f64);

    impl Serialize for KeyedBy {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map([(self.0, 1)])
        }
    }

    #[test]
    fn a_float_that_json_cannot_hold_is_an_error_and_not_a_null() {
        for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = Json::encode(&BTreeMap::from([("a", (1, Some(float)))])).unwrap_err();
            assert_eq!(error.kind, JsonErrorKind::NotFinite);
        }
        let error = Json::encode(&KeyedBy(f64::NAN)).unwrap_err();
        assert_eq!(error.kind, JsonErrorKind::NotFinite);
        let error = Json::encode(&BTreeMap::from([((1, 2), 1)])).unwrap_err();
        assert_eq!(error.kind, JsonErrorKind::Unwritable);
        let fine = Json::encode(&(None::<f64>, (), "null", 1.5)).unwrap();
        assert_eq!(fine.as_bytes(), br#"[null,null,"null",1.5]"#);
    }

    fn nested(levels: usize) -> serde_json::Value {
        (1..levels).fold(serde_json::json!([]), |inner, _| serde_json::json!([inner]))
    }

    #[test]
    fn a_value_that_is_too_deep_to_be_read_back_is_rejected() {
        let deepest = Json::encode(&nested(MAX_DEPTH)).unwrap();
        assert_eq!(
            deepest.decode::<serde_json::Value>().unwrap(),
            nested(MAX_DEPTH)
        );
        let too_deep = JsonErrorKind::TooDeep { limit: MAX_DEPTH };
        assert_eq!(
            Json::encode(&nested(MAX_DEPTH + 1)).unwrap_err().kind,
            too_deep
        );
        assert_eq!(
            Json::encode_item(&nested(MAX_DEPTH)).unwrap_err().kind,
            too_deep
        );
        // An older version of sessile may have stored a deeper value.
        let stored = json(&nested(MAX_DEPTH + 1).to_string());
        let error = stored.decode::<serde_json::Value>().unwrap_err();
        assert_eq!(error.kind, too_deep);
        let mut list = Json::encode::<[u8]>(&[]).unwrap();
        list.push(&Json::encode_item(&nested(MAX_DEPTH - 1)).unwrap())
            .unwrap();
        list.decode::<serde_json::Value>().unwrap();
        let large = (nested(MAX_DEPTH - 1), "x".repeat(SIMD_FROM));
        Json::encode(&large)
            .unwrap()
            .decode::<serde_json::Value>()
            .unwrap();
        let brackets = Json::encode(&("[{".repeat(MAX_DEPTH), "\\\"[[")).unwrap();
        assert_eq!(depth(brackets.as_bytes()), 1);
    }

    #[test]
    fn an_item_is_appended_to_a_list_and_rejected_by_any_other_value() {
        let one = json("1");
        for (before, after) in [
            ("[]", "[1]"),
            ("[ \n]", "[1]"),
            ("[0]", "[0,1]"),
            ("[[] ,{}\n]", "[[] ,{},1]"),
            ("[\"]\"]", "[\"]\",1]"),
        ] {
            let mut list = json(before);
            let shared = list.clone();
            list.push(&one).unwrap();
            assert_eq!(list.as_bytes(), after.as_bytes());
            assert_eq!(shared.as_bytes(), before.as_bytes());
        }
        for other in ["1", "\"[]\"", "{}", "null", "\"]\""] {
            let mut value = json(other);
            let error = value.push(&one).unwrap_err();
            assert_eq!(error, JsonError::not_a_list());
            assert_eq!(value.as_bytes(), other.as_bytes());
        }
    }

    #[test]
    fn eight_thousand_items_are_appended_without_copying_the_list_for_each() {
        let mut list = Json::encode::<[u8]>(&[]).unwrap();
        let item = Json::encode("an item of a list").unwrap();
        let mut copies = 0;
        for _ in 0..8_000 {
            let before = list.as_bytes().as_ptr();
            list.push(&item).unwrap();
            copies += usize::from(list.as_bytes().as_ptr() != before);
        }
        assert_eq!(list.decode::<Vec<String>>().unwrap().len(), 8_000);
        assert!(copies < 64, "{copies}");
    }

    #[test]
    fn a_single_precision_float_comes_back_where_serde_reads_it_as_a_double() {
        for single in [
            7.038_531e-26_f32,
            -7.038_531e-26,
            0.1,
            1e-45,
            -0.0,
            f32::MAX,
        ] {
            for count in [1, SIMD_FROM] {
                for untagged in [Untagged::Named { single }, Untagged::Bare(single)] {
                    let singles = Singles {
                        single,
                        singles: vec![single; count],
                    };
                    let value = Flattened { singles, untagged };
                    let decoded: Flattened = Json::encode(&value).unwrap().decode().unwrap();
                    assert_eq!(format!("{decoded:?}"), format!("{value:?}"));
                }
            }
        }
        assert_eq!(Json::encode(&0.1_f32).unwrap().as_bytes(), b"0.1");
    }

    #[derive(Serialize, Deserialize)]
    struct Outer<T> {
        #[serde(flatten)]
        inner: Inner<T>,
    }

    #[derive(Serialize, Deserialize)]
    struct Inner<T> {
        value: T,
        padding: String,
    }

    #[test]
    fn a_value_that_serde_cannot_read_back_fails_to_decode() {
        fn assert_rejected<T: Serialize + DeserializeOwned>(value: &T) {
            for length in [0, SIMD_FROM] {
                let padding = "x".repeat(length);
                let inner = Inner { value, padding };
                let json = Json::encode(&Outer { inner }).unwrap();
                assert!(json.decode::<Inner<T>>().is_ok(), "it was written");
                let error = json.decode::<Outer<T>>().map(drop).unwrap_err();
                assert_eq!(error.kind, JsonErrorKind::Mismatch);
            }
        }
        assert_rejected(&5_i128);
        assert_rejected(&u128::MAX);
        assert_rejected(&BTreeMap::from([(1, 2)]));
    }

    #[test]
    fn string_len_is_the_length_of_the_string_as_json() {
        for text in [
            "",
            "name",
            "\"\\/",
            "\n\t\r\u{8}\u{c}\u{b}\u{0}\u{1f}",
            "é\u{7f}😀",
        ] {
            assert_eq!(
                string_len(text),
                serde_json::to_vec(text).unwrap().len(),
                "{text:?}"
            );
        }
    }
}
