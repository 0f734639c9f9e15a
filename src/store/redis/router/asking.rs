//! What a node that a slot is on its way to is asked: `ASKING` before each command, which lets the next one through.

use redis::{Arg, Cmd, Pipeline, Value};

use crate::store::redis::connections::Connections;
use crate::store::redis::error::RequestError;
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::Request;

/// How the answer is to be read.
pub(crate) struct Form {
    /// Which of the answers count.
    counts: Vec<bool>,
    /// It was one command, and has one answer.
    single: bool,
}

/// The request with `ASKING` before each command. Within a transaction the one before `MULTI` holds until the end, and another
/// would be queued as a command of its own.
pub(crate) fn with_asking(request: &Request<'_>, in_transaction: &mut bool) -> (Pipeline, Form) {
    let mut pipeline = redis::pipe();
    let mut counts = Vec::new();
    let mut add = |command: &Cmd| {
        if !*in_transaction {
            pipeline.cmd("ASKING");
            counts.push(false);
        }
        pipeline.add_command(command.clone());
        counts.push(true);
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
    (pipeline, Form { counts, single })
}

impl Form {
    /// The answer to the request as it was.
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
            Some(Value::ServerError(error)) => Err(connections.refused(error)),
            Some(answer) => Ok(answer),
            None => Err(unexpected_reply("ASKING").into()),
        }
    }

    /// Those that count; none if there are not as many as questions.
    fn answers(&self, answer: Value) -> Option<Vec<Value>> {
        let Value::Array(answers) = answer else {
            return None;
        };
        if answers.len() != self.counts.len() {
            return None;
        }
        let answers = answers.into_iter().zip(&self.counts);
        Some(
            answers
                .filter_map(|(answer, counts)| counts.then_some(answer))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_let_through_and_a_transaction_once() {
        let mut in_transaction = false;
        let mut asked = |words: &str| {
            let mut commands = redis::pipe();
            for word in words.split(' ') {
                commands.cmd(word);
            }
            let (pipeline, form) = with_asking(&Request::Pipeline(&commands), &mut in_transaction);
            let name = |command: &Cmd| match command.args_iter().next() {
                Some(Arg::Simple(name)) => String::from_utf8(name.to_vec()).unwrap(),
                _ => String::new(),
            };
            let sent: Vec<String> = pipeline.cmd_iter().map(name).collect();
            let counts: Vec<bool> = sent.iter().map(|name| name != "ASKING").collect();
            assert_eq!(form.counts, counts);
            sent.join(" ")
        };
        assert_eq!(asked("PTTL GET"), "ASKING PTTL ASKING GET");
        assert_eq!(
            asked("WATCH GETRANGE MULTI"),
            "ASKING WATCH ASKING GETRANGE ASKING MULTI"
        );
        assert_eq!(asked("DISCARD PTTL GET"), "DISCARD ASKING PTTL ASKING GET");
        assert_eq!(asked("MULTI"), "ASKING MULTI");
        assert_eq!(asked("SET EXEC"), "SET EXEC");
        assert_eq!(asked("WAIT"), "ASKING WAIT");
    }

    #[test]
    fn the_answers_that_count_are_those_to_what_was_asked() {
        let form = |counts: &[bool]| Form {
            counts: counts.to_vec(),
            single: false,
        };
        let answer = Value::Array(vec![Value::Okay, Value::Int(1), Value::Int(2)]);
        let some = form(&[false, true, true]).answers(answer.clone());
        assert_eq!(some, Some(vec![Value::Int(1), Value::Int(2)]));
        assert_eq!(form(&[false, true]).answers(answer), None);
        assert_eq!(form(&[true]).answers(Value::Okay), None);
    }
}
