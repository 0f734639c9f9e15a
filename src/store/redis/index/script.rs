//! The changes of an index as scripts, each atomic and in one round trip.

use redis::Value;

use crate::store::index::{Began, Generation};
use crate::store::redis::error::RequestError;
use crate::store::redis::index::{Change, Operation, Outcome, generation_ttl, number};
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::Request;
use crate::store::redis::servers::Servers;
use crate::time::{Millis, to_millis};

/// Sets the time to live of the sessions' key to that of the session that lives longest. `now` is the present time.
const KEEP: &str = r"
local function keep(now)
  local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
  if last[2] then
    redis.call('PEXPIRE', KEYS[1], math.max(1, math.ceil(last[2] - now)))
  end
end
";

/// Returns the generation, or -1 if the sessions were ended since, or -2 if the index is full.
/// Arguments: handle, until, now, end of the reservation, time of the sign-in or nothing, its generation or nothing, limit or 0.
const ENTER: &str = r"
local generation = redis.call('GET', KEYS[3]) or '0'
if ARGV[5] ~= '' then
  if tonumber(ARGV[5]) <= tonumber(generation) then return -1 end
elseif ARGV[6] ~= generation then
  return -1
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[3])
local limit = tonumber(ARGV[7])
if limit > 0 and not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= limit then
  return -2
end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
redis.call('PEXPIRE', KEYS[2], math.max(1, ARGV[4] - ARGV[3]))
keep(ARGV[3])
return generation
";

/// Returns 1, or -1 if the session has left or the generation has changed. Arguments: handle, generation, until, now.
const CONFIRM: &str = r"
local generation = redis.call('GET', KEYS[3]) or '0'
if generation ~= ARGV[2] or not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return -1 end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
keep(ARGV[4])
return 1
";

/// Arguments: handle, until, now.
const EXTEND: &str = r"
redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
keep(ARGV[3])
return 1
";

/// Returns the new generation. Arguments: time, time to live.
const BEGIN_GENERATION: &str = r"
local last = tonumber(redis.call('GET', KEYS[3]) or '0')
local generation = string.format('%.0f', math.max(tonumber(ARGV[1]), last + 1))
redis.call('SET', KEYS[3], generation, 'PX', ARGV[2])
return generation
";

/// Arguments: now, and the handle and score of each session.
const LEAVE: &str = r"
local now = tonumber(ARGV[1])
for i = 2, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  local reserved = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if score and tonumber(score) == tonumber(ARGV[i + 1]) and not (reserved and tonumber(reserved) > now) then
    redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
return 1
";

/// The scripts, with the hashes by which Redis knows them.
pub(super) struct Scripts {
    enter: Script,
    confirm: Script,
    extend: Script,
    begin_generation: Script,
    leave: Script,
}

struct Script {
    text: String,
    hash: String,
}

impl Script {
    fn new(parts: &[&str]) -> Self {
        let text = parts.concat();
        Self {
            hash: redis::Script::new(&text).get_hash().to_owned(),
            text,
        }
    }

    fn call(&self, change: &Change<'_>, arguments: &[String], by_hash: bool) -> redis::Cmd {
        let (name, script) = match by_hash {
            true => ("EVALSHA", &self.hash),
            false => ("EVAL", &self.text),
        };
        let mut command = redis::cmd(name);
        command.arg(script).arg(3).arg(&change.keys.all()[..]);
        command.arg(arguments);
        command
    }
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            enter: Script::new(&[KEEP, ENTER]),
            confirm: Script::new(&[KEEP, CONFIRM]),
            extend: Script::new(&[KEEP, EXTEND]),
            begin_generation: Script::new(&[BEGIN_GENERATION]),
            leave: Script::new(&[LEAVE]),
        }
    }

    pub(super) async fn run(
        &self,
        servers: &Servers,
        change: &Change<'_>,
    ) -> Result<Outcome, RequestError> {
        let (script, arguments) = self.script(change);
        let key = change.keys.all()[0];
        let by_hash = script.call(change, &arguments, true);
        // All are idempotent enough: a generation that begins twice ends no more than one.
        let mut answer = servers
            .send_idempotent(key, &Request::Command(&by_hash))
            .await;
        if answer
            .as_ref()
            .is_err_and(|failed| failed.code.as_deref() == Some("NOSCRIPT"))
        {
            let whole = script.call(change, &arguments, false);
            answer = servers
                .send_idempotent(key, &Request::Command(&whole))
                .await;
        }
        match answer? {
            Value::Int(1) => Ok(Outcome::Done(Generation::default())),
            Value::Int(-1) => Ok(Outcome::Ended),
            Value::Int(-2) => Ok(Outcome::Full),
            text @ Value::BulkString(_) => Ok(Outcome::Done(number(&text)?)),
            _ => Err(unexpected_reply("EVALSHA").into()),
        }
    }

    fn script(&self, change: &Change<'_>) -> (&Script, Vec<String>) {
        let text = |number: Millis| number.to_string();
        let now = change.now;
        match change.operation {
            Operation::Enter {
                entry,
                began,
                limit,
            } => {
                let (time, generation) = match began {
                    Began::At(time) => (text(time), String::new()),
                    Began::In(generation) => (String::new(), text(generation)),
                };
                let arguments = vec![
                    entry.handle.to_string(),
                    text(to_millis(entry.until)),
                    text(now),
                    text(change.reserved_until()),
                    time,
                    generation,
                    limit.map_or(0, |limit| limit.max(1)).to_string(),
                ];
                (&self.enter, arguments)
            }
            Operation::Confirm { entry, entered_in } => {
                let arguments = vec![
                    entry.handle.to_string(),
                    text(entered_in.number()),
                    text(to_millis(entry.until)),
                    text(now),
                ];
                (&self.confirm, arguments)
            }
            Operation::Extend(entry) => {
                let until = text(to_millis(entry.until));
                let arguments = vec![entry.handle.to_string(), until, text(now)];
                (&self.extend, arguments)
            }
            Operation::BeginGeneration { at } => (
                &self.begin_generation,
                vec![text(at), text(generation_ttl())],
            ),
            Operation::Leave(entries) => {
                let mut arguments = vec![text(now)];
                for entry in entries {
                    arguments.push(entry.handle.to_string());
                    arguments.push(text(to_millis(entry.until)));
                }
                (&self.leave, arguments)
            }
        }
    }
}
