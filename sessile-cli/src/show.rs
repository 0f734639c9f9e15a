//! `show`: one session.

use std::collections::BTreeMap;

use serde::Serialize;
use sessile::{Flash, SessionError, SessionStore as _, StoredSession};

use crate::args;
use crate::failure::{Failure, Outcome};
use crate::human::printable;
use crate::output::{BOLD, Output, pairs, styled};
use crate::settings::Settings;
use crate::store::open_to_read;
use crate::view::{Unreadable, View, lines};

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    session: View,
    keys: Vec<String>,
    /// How many flash messages wait to be shown.
    flashes: usize,
    #[serde(flatten)]
    values: Option<Values>,
}

/// Only if they are asked for: they may be personal data.
#[derive(Debug, Serialize)]
struct Values {
    values: BTreeMap<String, serde_json::Value>,
    flash_messages: Vec<Message>,
}

#[derive(Debug, Serialize)]
struct Message {
    level: String,
    text: String,
}

pub(crate) async fn run(
    args: &args::Show,
    settings: &Settings,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let store = open_to_read(settings).await?;
    let session = match store.sessions.find(args.handle).await {
        Ok(Some(session)) => session,
        Ok(None) => {
            let advice =
                "it has ended, or never was; `sessile explain` says what can be told about it";
            anstream::eprintln!("no session {}: {advice}", args.handle);
            return Ok(Outcome::Found);
        }
        Err(SessionError::Gone(_)) => {
            let unreadable = Unreadable::new(args.handle);
            anstream::eprintln!("the session {} is {}", args.handle, unreadable.error);
            return Ok(Outcome::Found);
        }
        Err(error) => return Err(error.into()),
    };
    let values = args.values.then(|| values(&session)).transpose()?;
    if output.is_json {
        output.json(&Report {
            session: View::of(&session),
            keys: session.keys(),
            flashes: session.flashes().len(),
            values,
        })?;
        return Ok(Outcome::Fine);
    }
    let mut about = lines(&session, store.redis.now());
    if values.is_none() {
        let keys: Vec<_> = session.keys().iter().map(|key| printable(key)).collect();
        about.push(("keys", keys.join(", ")));
        about.push(("flashes", session.flashes().len().to_string()));
    }
    pairs(output, &about)?;
    if let Some(values) = values {
        print_values(output, &values)?;
    }
    Ok(Outcome::Fine)
}

fn values(session: &StoredSession) -> Result<Values, Failure> {
    let message = |flash: &Flash| Message {
        level: format!("{:?}", flash.level).to_lowercase(),
        text: flash.text.clone(),
    };
    Ok(Values {
        values: session.values()?,
        flash_messages: session.flashes().iter().map(message).collect(),
    })
}

fn print_values(output: &mut Output, values: &Values) -> std::io::Result<()> {
    output.line("")?;
    for (key, value) in &values.values {
        let text = printable(&value.to_string());
        output.line(format!("{} = {text}", styled(BOLD, printable(key))))?;
    }
    for message in &values.flash_messages {
        let text = printable(&message.text);
        output.line(format!(
            "{} {text}",
            styled(BOLD, format!("flash {}:", message.level))
        ))?;
    }
    Ok(())
}
