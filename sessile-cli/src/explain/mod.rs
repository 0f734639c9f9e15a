//! `explain`: whether a request would get a session, and why not.
//!
//! `verdict.rs` judges a stored session, `missing.rs` looks for the causes of a missing one. Neither asks anything, so tables test
//! them. This file asks, and prints.

mod missing;
mod verdict;

use std::io::{self, IsTerminal as _, Read as _};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use serde::Serialize;
use sessile::store::IndexKey;
use sessile::{Handle, SessionConfig, SessionError, SessionStore as _, StoredSession};

use crate::args;
use crate::doctor::gather_node;
use crate::explain::missing::{Cause, Missing, Server};
use crate::explain::verdict::{Circumstances, Network, Stored, Verdict};
use crate::failure::{Failure, Outcome};
use crate::output::{BOLD, DIM, GREEN, Output, RED, pairs, styled, wrapped};
use crate::place::Place;
use crate::prompt;
use crate::servers::Servers;
use crate::settings::Settings;
use crate::store::{Store, open_to_read};
use crate::view::{View, lines};

#[derive(Debug, Serialize)]
struct Report {
    handle: Option<String>,
    /// Whether the request gets the session.
    accepted: bool,
    reason: verdict::Reason,
    explanation: String,
    details: Vec<String>,
    /// What may have ended a session that is missing, the likeliest first.
    causes: Vec<Cause>,
    session: Option<View>,
}

pub(crate) async fn run(
    args: &args::Explain,
    settings: &Settings,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let token = match args.token_stdin {
        true => Some(read_token(&settings.session).await?),
        false => None,
    };
    let named = token.as_deref().map(handle_of);
    let store = open_to_read(settings).await?;
    let now = store.redis.now();
    let at = args.at.map_or(now, SystemTime::from);
    let handle = args.handle.or_else(|| named.flatten());
    let Some(handle) = handle else {
        let verdict = verdict::not_a_token();
        return report(output, None, verdict, Vec::new(), None, now);
    };
    if let (Some(given), Some(named)) = (args.handle, named)
        && named != Some(given)
    {
        let verdict = verdict::another_session(named);
        return report(output, Some(given), verdict, Vec::new(), None, now);
    }
    match store.sessions.find(handle).await {
        Ok(Some(session)) => {
            let circumstances = Circumstances {
                now,
                at,
                token: token.map(|token| session.check_token(&token)),
                network: args.network.map(|address| {
                    let (fingerprint, is_admitted) = session.compare_address(address);
                    Network {
                        fingerprint,
                        is_admitted,
                    }
                }),
            };
            let verdict = verdict::judge(&stored(&session), &circumstances);
            report(
                output,
                Some(handle),
                verdict,
                Vec::new(),
                Some(&session),
                now,
            )
        }
        Ok(None) => {
            let missing = look_for(handle, args, settings, &store, now).await?;
            let causes = missing::causes(&missing);
            report(output, Some(handle), missing::verdict(), causes, None, now)
        }
        Err(SessionError::Gone(_)) => report(
            output,
            Some(handle),
            verdict::unreadable(),
            Vec::new(),
            None,
            now,
        ),
        Err(error) => Err(error.into()),
    }
}

fn stored(session: &StoredSession) -> Stored {
    Stored {
        principal: session.principal().map(str::to_owned),
        created: session.created_at(),
        authenticated: session.authenticated_at(),
        expires: session.expires_at(),
        deadline: session.deadline(),
        retired_until: session.retired_until(),
    }
}

/// What is known about a session that is not stored.
async fn look_for(
    handle: Handle,
    args: &args::Explain,
    settings: &Settings,
    store: &Store,
    now: SystemTime,
) -> Result<Missing, Failure> {
    let listed = match &args.principal {
        None => None,
        Some(principal) => {
            // Not `Sessions::of`, which would remove the entry.
            let indexed = store.redis.list(&IndexKey::of(principal)).await?;
            let entry = indexed.sessions.iter().find(|it| it.entry.handle == handle);
            Some(entry.map(|it| it.entry.until))
        }
    };
    let place = Place::of(&settings.redis)?;
    let servers = Servers::find(&place, &settings.redis).await;
    let nodes: Vec<_> = servers.primaries().cloned().collect();
    let asked = join_all(nodes.iter().map(gather_node)).await;
    let server = |(node, answers): (&crate::node::Node, crate::doctor::facts::Answers)| {
        let uptime = Duration::from_secs(answers.number("uptime_in_seconds")?);
        let has_snapshots = match answers.setting("save") {
            Some(save) => !save.is_empty(),
            None => answers.number("rdb_saves").unwrap_or(0) > 0,
        };
        Some(Server {
            address: node.address(),
            up_since: now.checked_sub(uptime)?,
            keeps: match (answers.info("aof_enabled") == Some("1"), has_snapshots) {
                (true, _) => missing::Keeps::EachWrite,
                (false, true) => missing::Keeps::Snapshots,
                (false, false) => missing::Keeps::Nothing,
            },
            evicted: answers.number("evicted_keys").unwrap_or(0),
            has_taken_over: answers
                .info("second_repl_offset")
                .is_some_and(|offset| offset != "-1"),
        })
    };
    Ok(Missing {
        now,
        principal: args.principal.clone(),
        listed_until: listed,
        idle_timeout: settings.session.idle_timeout,
        is_full_idle: settings.session.full_idle_timeout,
        absolute_timeout: settings.session.absolute_timeout,
        servers: nodes.iter().zip(asked).filter_map(server).collect(),
    })
}

fn report(
    output: &mut Output,
    handle: Option<Handle>,
    verdict: Verdict,
    causes: Vec<Cause>,
    session: Option<&StoredSession>,
    now: SystemTime,
) -> Result<Outcome, Failure> {
    let accepted = verdict.reason == verdict::Reason::Accepted;
    let report = Report {
        handle: handle.map(|it| it.to_string()),
        accepted,
        reason: verdict.reason,
        explanation: verdict.explanation,
        details: verdict.details,
        causes,
        session: session.map(View::of),
    };
    match output.is_json {
        true => output.json(&report)?,
        false => print(output, &report, session, now)?,
    }
    Ok(match accepted {
        true => Outcome::Fine,
        false => Outcome::Found,
    })
}

fn print(
    output: &mut Output,
    report: &Report,
    session: Option<&StoredSession>,
    now: SystemTime,
) -> io::Result<()> {
    let (style, word) = match report.accepted {
        true => (GREEN, "accepted"),
        false => (RED, "refused"),
    };
    let text = wrapped(&report.explanation, 100);
    for (index, line) in text.iter().enumerate() {
        match index {
            0 => output.line(format!("{}  {}", styled(style, word), styled(BOLD, line)))?,
            _ => output.line(format!("          {}", styled(BOLD, line)))?,
        }
    }
    for detail in &report.details {
        item(output, "", detail)?;
    }
    if !report.causes.is_empty() {
        output.line("")?;
        output.line("What may have ended it, the likeliest first:")?;
        for cause in &report.causes {
            let name = format!("{} ({})", cause.cause, cause.likelihood.name());
            item(output, &name, &cause.text)?;
        }
    }
    if let Some(session) = session {
        output.line("")?;
        pairs(output, &lines(session, now))?;
    }
    Ok(())
}

fn item(output: &mut Output, name: &str, text: &str) -> io::Result<()> {
    let name = if name.is_empty() {
        String::new()
    } else {
        format!("{name}: ")
    };
    for (index, line) in wrapped(&format!("{name}{text}"), 108).iter().enumerate() {
        let mark = if index == 0 { "- " } else { "  " };
        output.line(format!("{}{line}", styled(DIM, mark)))?;
    }
    Ok(())
}

/// The value of the cookie, alone or as `name=value`, or a whole Cookie header. It must come neither from the arguments, which `ps`
/// and the shell's history show, nor into any output.
async fn read_token(layer: &SessionConfig) -> Result<String, Failure> {
    let text = match io::stdin().is_terminal() {
        true => prompt::secret("The value of the session's cookie, which is not shown:").await?,
        false => {
            let read = prompt::apart(|| {
                let mut text = String::new();
                // Browsers send no more; whatever follows is not read.
                let mut stdin = io::stdin().lock().take(16 * 1024);
                stdin.read_to_string(&mut text).map(|_| text)
            });
            read.await.map_err(|error| {
                Failure::Usage(format!("cannot read the token from stdin: {error}"))
            })?
        }
    };
    let former = layer.cookie.former_names.iter().map(String::as_str);
    let names = std::iter::once(layer.cookie.name.as_str()).chain(former);
    Ok(cookie_value(&text, names).to_owned())
}

/// The value of the cookie with the first of these names that is there, or else of the first cookie.
fn cookie_value<'a, 'n>(text: &'a str, names: impl IntoIterator<Item = &'n str>) -> &'a str {
    let text = text.trim();
    let is_header = |name: &str| ["cookie", "set-cookie"].contains(&name.to_lowercase().as_str());
    let text = match text.split_once(':') {
        Some((name, rest)) if is_header(name) => rest,
        _ => text,
    };
    let pairs = || text.split(';').filter_map(|pair| pair.split_once('='));
    let named = |name| pairs().find(|(found, _)| found.trim() == name);
    let named = names.into_iter().find_map(named);
    let first = text.split(';').next().unwrap_or(text);
    let first = first.split_once('=').map_or(first, |(_, value)| value);
    named.map_or(first, |(_, value)| value).trim()
}

/// The public half of a token; `None` if it is not one.
fn handle_of(token: &str) -> Option<Handle> {
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .filter(|bytes| bytes.len() == 32)?;
    BASE64_URL_SAFE_NO_PAD.encode(&bytes[..16]).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_read_in_the_forms_in_which_it_is_copied() {
        for (text, expected) in [
            ("abc\n", "abc"),
            ("__Host-id=abc", "abc"),
            ("__Host-id=abc; Path=/; Secure\n", "abc"),
            ("other=abc", "abc"),
            ("theme=dark; __Host-id=abc; lang=en", "abc"),
            ("Cookie: theme=dark; __Host-id=abc", "abc"),
            ("old=def; __Host-id=abc", "abc"),
            ("theme=dark; old=def", "def"),
            ("set-cookie: __Host-id=abc; Path=/", "abc"),
            ("", ""),
        ] {
            assert_eq!(cookie_value(text, ["__Host-id", "old"]), expected, "{text}");
        }
    }

    #[test]
    fn the_first_half_of_a_token_is_the_handle() {
        let token = format!("{}B{}", "A".repeat(21), "C".repeat(20));
        assert_eq!(token.len(), 42);
        assert_eq!(handle_of(&token), None);
        let token = BASE64_URL_SAFE_NO_PAD.encode([7; 32]);
        let handle = BASE64_URL_SAFE_NO_PAD.encode([7; 16]);
        assert_eq!(handle_of(&token).map(|it| it.to_string()), Some(handle));
        assert_eq!(handle_of("AAAA"), None);
    }
}
