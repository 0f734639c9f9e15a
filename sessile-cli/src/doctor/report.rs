//! Prints the findings.

use std::io;

use serde::Serialize;

use crate::doctor::facts::Facts;
use crate::doctor::finding::{Finding, Severity};
use crate::output::{BOLD, CYAN, DIM, GREEN, Output, RED, YELLOW, styled, wrapped};

/// The width of the text beside the names of checks.
const WIDTH: usize = 96;

#[derive(Serialize)]
struct Report<'a> {
    servers: Vec<&'a str>,
    worst: Severity,
    findings: &'a [Finding],
}

pub(crate) fn print(output: &mut Output, facts: &Facts, findings: &[Finding]) -> io::Result<()> {
    let worst = findings
        .iter()
        .map(|it| it.severity)
        .max()
        .unwrap_or(Severity::Ok);
    if output.is_json {
        let servers = facts
            .nodes
            .iter()
            .map(|node| node.address.as_str())
            .collect();
        return output.json(&Report {
            servers,
            worst,
            findings,
        });
    }
    for finding in findings {
        print_finding(output, finding)?;
    }
    let count = |severity| findings.iter().filter(|it| it.severity == severity).count();
    let counts = [
        (Severity::Problem, "problem", "problems"),
        (Severity::Warning, "warning", "warnings"),
        (Severity::Note, "note", "notes"),
    ];
    let counts = counts.map(|(severity, one, many)| match count(severity) {
        1 => format!("1 {one}"),
        n => format!("{n} {many}"),
    });
    output.line("")?;
    output.line(styled(BOLD, counts.join(", ")))
}

fn print_finding(output: &mut Output, finding: &Finding) -> io::Result<()> {
    let (style, mark) = match finding.severity {
        Severity::Ok => (GREEN, "ok"),
        Severity::Note => (CYAN, "note"),
        Severity::Warning => (YELLOW, "warning"),
        Severity::Problem => (RED, "PROBLEM"),
    };
    let node = finding
        .node
        .as_ref()
        .map(|node| format!("{node}: "))
        .unwrap_or_default();
    let mut lines = wrapped(&format!("{node}{}", finding.seen), WIDTH).into_iter();
    let head = lines.next().unwrap_or_default();
    output.line(format!(
        "{}  {:15}  {head}",
        styled(style, format!("{mark:7}")),
        finding.check
    ))?;
    let margin = " ".repeat(26);
    for line in lines {
        output.line(format!("{margin}{line}"))?;
    }
    if finding.severity == Severity::Ok {
        return Ok(());
    }
    for line in wrapped(&finding.why, WIDTH)
        .iter()
        .filter(|line| !line.is_empty())
    {
        output.line(format!("{margin}{}", styled(DIM, line)))?;
    }
    if let Some(change) = &finding.change {
        for (name, text) in [("change: ", &change.to), ("price:  ", &change.price)] {
            for (index, line) in wrapped(text, WIDTH - name.len()).iter().enumerate() {
                let name = if index == 0 { name } else { "        " };
                output.line(format!("{margin}{name}{line}"))?;
            }
        }
    }
    Ok(())
}
