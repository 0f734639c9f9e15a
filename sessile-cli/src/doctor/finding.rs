//! What the doctor found.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Ok,
    /// It is a choice, or could not be found out.
    Note,
    /// It may harm sessions.
    Warning,
    /// It harms sessions.
    Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Which check it is from: a stable name.
    pub(crate) check: &'static str,
    pub(crate) severity: Severity,
    /// The server that it is about, if there are several.
    pub(crate) node: Option<String>,
    /// The fact.
    pub(crate) seen: String,
    /// What it means for sessions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) change: Option<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// A command or a setting.
    pub(crate) to: String,
    /// What it costs.
    pub(crate) price: String,
}

impl Finding {
    fn new(check: &'static str, severity: Severity, seen: impl Into<String>) -> Self {
        Self {
            check,
            severity,
            node: None,
            seen: seen.into(),
            why: String::new(),
            change: None,
        }
    }

    pub(crate) fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, seen)
    }

    pub(crate) fn note(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, Severity::Note, seen)
    }

    pub(crate) fn warning(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, Severity::Warning, seen)
    }

    pub(crate) fn problem(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, Severity::Problem, seen)
    }

    pub(crate) fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    pub(crate) fn change(mut self, to: impl Into<String>, price: impl Into<String>) -> Self {
        self.change = Some(Change {
            to: to.into(),
            price: price.into(),
        });
        self
    }

    pub(crate) fn at(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }
}
