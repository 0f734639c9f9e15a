//! Why a value cannot be written as JSON, or JSON cannot be read as a value.

use std::error::Error;

/// Why a value cannot be written as JSON, or read from it.
///
/// It can be logged: it holds neither the value nor a message of the application's `Serialize` or `Deserialize`, which may quote
/// the value.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The kind of the error.
    pub kind: JsonErrorKind,
    /// The line of the stored JSON at which reading stopped, from 1; 0 if the error happened in writing, or if the line is unknown.
    pub line: usize,
    /// The column in that line, in bytes, from 1; 0 if `line` is 0.
    pub column: usize,
}

/// The kind of a [`JsonError`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonErrorKind {
    /// The JSON does not have the type that was asked for.
    Mismatch,
    /// The stored value is not valid JSON.
    Syntax,
    /// The JSON ends too early.
    Truncated,
    /// The type's `Serialize` failed, or the value has a map whose keys are neither strings nor numbers.
    Unwritable,
    /// The value holds a float that is NaN or infinite.
    NotFinite,
    /// The value is nested too deeply to be read back.
    #[non_exhaustive]
    TooDeep {
        /// How many levels of lists, maps and structs are allowed.
        limit: usize,
    },
}

impl JsonError {
    /// An error without a position in the stored JSON.
    pub(crate) fn in_value(kind: JsonErrorKind) -> Self {
        let (line, column) = (0, 0);
        Self { kind, line, column }
    }

    pub(crate) fn not_a_list() -> Self {
        Self {
            kind: JsonErrorKind::Mismatch,
            line: 1,
            column: 1,
        }
    }

    /// Converts an error of serde_json, without its message, which quotes the JSON.
    pub(crate) fn reading(error: &serde_json::Error) -> Self {
        use serde_json::error::Category;
        Self {
            kind: match error.classify() {
                Category::Data => JsonErrorKind::Mismatch,
                Category::Eof => JsonErrorKind::Truncated,
                // `Io` cannot happen, since nothing is read from a stream.
                Category::Syntax | Category::Io => JsonErrorKind::Syntax,
            },
            line: error.line(),
            column: error.column(),
        }
    }
}

impl Error for JsonError {}

impl std::fmt::Display for JsonError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.kind.fmt(f)?;
        match self.line {
            0 => Ok(()),
            line => write!(f, " at line {line}, column {}", self.column),
        }
    }
}

impl std::fmt::Display for JsonErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mismatch => "the JSON has another type",
            Self::Syntax => "the stored value is not valid JSON",
            Self::Truncated => "the JSON ends too early",
            Self::Unwritable => {
                "its `Serialize` failed, or the keys of a map are neither strings nor numbers"
            }
            Self::NotFinite => "JSON cannot hold NaN or infinity: use an `Option`, or a string",
            Self::TooDeep { limit } => {
                return write!(
                    f,
                    "it is nested deeper than the {limit} levels that can be read"
                );
            }
        })
    }
}
