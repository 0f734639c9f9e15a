//! What can be wrong with a value that is to become JSON, or with JSON that is to become a value.

use std::error::Error;

/// Why a value cannot be written as JSON, or read from it.
///
/// It holds nothing of the value, and no message of a `Serialize` or `Deserialize` of yours, in which a value may be: it can be
/// logged.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// What is wrong.
    pub kind: JsonErrorKind,
    /// The line of the stored JSON at which reading stopped, from 1; 0 if it was written, or if that is not known.
    pub line: usize,
    /// The column of that line, in bytes, from 1.
    pub column: usize,
}

/// What is wrong with JSON, or with a value that was to become JSON.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonErrorKind {
    /// It is JSON, and of another type than the one that was asked for.
    Mismatch,
    /// It is not JSON.
    Syntax,
    /// It ends too early.
    Truncated,
    /// The type's `Serialize` failed, or it has a map whose keys are neither strings nor numbers.
    Unwritable,
    /// There is a float in it that is NaN or infinite.
    NotFinite,
    /// It is nested deeper than it can be read again.
    #[non_exhaustive]
    TooDeep {
        /// How many levels of lists, maps and structs there may be.
        limit: usize,
    },
}

impl JsonError {
    /// An error that is not at one place of the stored JSON.
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

    /// What serde_json says of JSON, without its words: they quote what they have found.
    pub(crate) fn reading(error: &serde_json::Error) -> Self {
        use serde_json::error::Category;
        Self {
            kind: match error.classify() {
                Category::Data => JsonErrorKind::Mismatch,
                Category::Eof => JsonErrorKind::Truncated,
                // Nothing is read from a stream.
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
            Self::Mismatch => "the JSON is of another type",
            Self::Syntax => "this is not JSON",
            Self::Truncated => "the JSON ends too early",
            Self::Unwritable => "its `Serialize` failed, or the keys of a map are not strings",
            Self::NotFinite => "JSON has no NaN and no infinity: use an `Option`, or a string",
            Self::TooDeep { limit } => {
                return write!(
                    f,
                    "it is nested deeper than the {limit} levels that can be read"
                );
            }
        })
    }
}
