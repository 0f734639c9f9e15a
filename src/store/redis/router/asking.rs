//! Requests to a node that a slot is migrating to: it serves a command only if `ASKING` precedes it.

use redis::{Arg, Cmd, Pipeline, Value};

use crate::store::redis::connections::Connections;
use crate::store::redis::error::RequestError;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::Request;

/// Selects the replies to the request from those of the pipeline with `ASKING`.
pub(crate) struct ReplyFilter {
    /// For each reply, whether it belongs to the request.
    selected: Vec<bool>,
    /// The request was one command, and gets one reply.
    single: bool,
}

/// The request with `ASKING` before each command. In a transaction, the `ASKING` before `MULTI` applies until the end, and
/// another would be queued as a command of the transaction.
pub(crate) fn with_asking(
    request: &Request<'_>,
    in_transaction: &mut bool,
) -> (Pipeline, ReplyFilter) {
    let mut pipeline = redis::pipe();
    let mut selected = Vec::new();
    let mut add = |command: &Cmd| {
        if !*in_transaction {
            pipeline.cmd("ASKING");
            selected.push(false);
        }
        pipeline.add_command(command.clone());
        selected.push(true);
        match command.args_iter().next() {
            Some(Arg::Simple(b"MULTI")) => *in_transaction = true,
            Some(Arg::Simple(b"EXEC" | b"DISCARD")) => *in_transaction = false,
            _ => {}
        }
    };
    let single = match request {
        Request::Command(command) => {
            add(command);
            true
        }
        Request::Pipeline(commands) => {
            commands.cmd_iter().for_each(add);
            false
        }
    };
    pipeline.ignore_errors();
    (pipeline, ReplyFilter { selected, single })
}

impl ReplyFilter {
    /// The reply to the original request.
    pub(crate) fn read(
        &self,
        answer: Value,
        connections: &Connections,
    ) -> Result<Value, RequestError> {
        let mut answers = self
            .answers(answer)
            .ok_or_else(|| unexpected_reply("ASKING"))?;
        if !self.single {
            return Ok(Value::Array(answers));
        }
        match answers.pop() {
            Some(Value::ServerError(error)) => Err(connections.server_error(error)),
            Some(answer) => Ok(answer),
            None => Err(unexpected_reply("ASKING").into()),
        }
    }

    /// The selected replies; `None` if their number does not match that of the commands.
    fn answers(&self, answer: Value) -> Option<Vec<Value>> {
        let Value::Array(answers) = answer else {
            return None;
        };
        if answers.len() != self.selected.len() {
            return None;
        }
        let answers = answers.into_iter().zip(&self.selected);
        Some(
            answers
                .filter_map(|(answer, selected)| selected.then_some(answer))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_precedes_every_command_outside_a_transaction() {
        let mut in_transaction = false;
        let mut commands_sent = |words: &str| {
            let mut commands = redis::pipe();
            for word in words.split(' ') {
                commands.cmd(word);
            }
            let (pipeline, filter) =
                with_asking(&Request::Pipeline(&commands), &mut in_transaction);
            let name = |command: &Cmd| match command.args_iter().next() {
                Some(Arg::Simple(name)) => String::from_utf8(name.to_vec()).unwrap(),
                _ => String::new(),
            };
            let sent: Vec<String> = pipeline.cmd_iter().map(name).collect();
            let selected: Vec<bool> = sent.iter().map(|name| name != "ASKING").collect();
            assert_eq!(filter.selected, selected);
            sent.join(" ")
        };
        assert_eq!(commands_sent("PTTL GET"), "ASKING PTTL ASKING GET");
        assert_eq!(
            commands_sent("WATCH GETRANGE MULTI"),
            "ASKING WATCH ASKING GETRANGE ASKING MULTI"
        );
        assert_eq!(
            commands_sent("DISCARD PTTL GET"),
            "DISCARD ASKING PTTL ASKING GET"
        );
        assert_eq!(commands_sent("MULTI"), "ASKING MULTI");
        assert_eq!(commands_sent("SET EXEC"), "SET EXEC");
        assert_eq!(commands_sent("WAIT"), "ASKING WAIT");
    }

    #[test]
    fn the_replies_to_asking_are_left_out() {
        let filter = |selected: &[bool]| ReplyFilter {
            selected: selected.to_vec(),
            single: false,
        };
        let answer = Value::Array(vec![Value::Okay, Value::Int(1), Value::Int(2)]);
        let replies = filter(&[false, true, true]).answers(answer.clone());
        assert_eq!(replies, Some(vec![Value::Int(1), Value::Int(2)]));
        assert_eq!(filter(&[false, true]).answers(answer), None);
        assert_eq!(filter(&[true]).answers(Value::Okay), None);
    }
}
