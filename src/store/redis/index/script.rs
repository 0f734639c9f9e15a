//! The changes of an index as scripts, each atomic and in one round trip.

use redis::Value;

use crate::error::store::StoreError;
use crate::store::index::{Began, Entry, Generation};
use crate::store::redis::error::RequestError;
use crate::store::redis::index::change::{Change, Operation, Outcome, RAISE, kept_for, micros};
use crate::store::redis::reply::unexpected_reply;
use crate::store::redis::request::Request;
use crate::store::redis::servers::Servers;

/// Functions that the scripts share. `now` and `kept` are the present time, and how long a generation is remembered. A score beyond
/// the largest one was not written by sessile.
const SHARED: &str = r"
local function text(number)
  return string.format('%.0f', number)
end
local function score(member)
  local score = redis.call('ZSCORE', KEYS[1], member)
  return score and math.min(tonumber(score), 9007199254740992)
end
local function generation(now, kept)
  local ends = score('generation') or 0
  if ends > tonumber(now) then return ends - kept end
  return 0
end
local function keep(now)
  local last = redis.call('ZRANGE', KEYS[1], -1, -1)
  if last[1] then
    redis.call('PEXPIRE', KEYS[1], text(math.max(1, math.ceil((score(last[1]) - now) / 1000))))
  end
end
";

/// Returns the generation, or -1 if the sessions were ended since, or -2 if the index is full. Arguments: now, kept, handle, until,
/// end of the reservation, time of the sign-in or nothing, its generation or nothing, limit or 0, raise.
const ENTER: &str = r"
local now, handle = ARGV[1], ARGV[3]
local present = generation(now, ARGV[2])
if ARGV[6] ~= '' then
  if tonumber(ARGV[6]) <= present then return -1 end
elseif present ~= 0 and tonumber(ARGV[7]) ~= present then
  return -1
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local limit, ends = tonumber(ARGV[8]), score(handle)
if limit > 0 and not ends then
  local count = 0
  for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if #member == 22 then count = count + 1 end
  end
  if count >= limit then return -2 end
end
local later = math.max(tonumber(ARGV[4]), (ends or 0) + ARGV[9])
redis.call('ZADD', KEYS[1], text(later), handle, ARGV[5], 'r' .. handle)
keep(now)
return text(present)
";

/// Returns 1, or -1 if the session has left or the generation has changed. Arguments: now, kept, handle, generation, raise.
const CONFIRM: &str = r"
local ends, present = score(ARGV[3]), generation(ARGV[1], ARGV[2])
if not ends or ends <= tonumber(ARGV[1]) or (present ~= 0 and present ~= tonumber(ARGV[4])) then
  return -1
end
redis.call('ZADD', KEYS[1], text(ends + ARGV[5]), ARGV[3])
redis.call('ZREM', KEYS[1], 'r' .. ARGV[3])
keep(ARGV[1])
return 1
";

/// Arguments: now, handle, until.
const EXTEND: &str = r"
redis.call('ZADD', KEYS[1], 'GT', ARGV[3], ARGV[2])
keep(ARGV[1])
return 1
";

/// Returns the new generation. Arguments: now, kept, time.
const BEGIN_GENERATION: &str = r"
local next = math.max(tonumber(ARGV[3]), generation(ARGV[1], ARGV[2]) + 1)
redis.call('ZADD', KEYS[1], text(next + ARGV[2]), 'generation')
keep(ARGV[1])
return text(next)
";

/// Arguments: now, and the handle and score of each session.
const LEAVE: &str = r"
local now = tonumber(ARGV[1])
for i = 2, #ARGV, 2 do
  local ends, reserved = score(ARGV[i]), score('r' .. ARGV[i])
  if ends and ends <= tonumber(ARGV[i + 1]) and not (reserved and reserved > now) then
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
        command.arg(script).arg(1).arg(&change.key);
        command.arg(arguments);
        command
    }
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            enter: Script::new(&[SHARED, ENTER]),
            confirm: Script::new(&[SHARED, CONFIRM]),
            extend: Script::new(&[SHARED, EXTEND]),
            begin_generation: Script::new(&[SHARED, BEGIN_GENERATION]),
            leave: Script::new(&[SHARED, LEAVE]),
        }
    }

    pub(super) async fn run(
        &self,
        servers: &Servers,
        change: &Change<'_>,
    ) -> Result<Outcome, RequestError> {
        let (script, arguments) = self.script(change);
        let key = &change.key;
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
            text @ Value::BulkString(_) => Ok(Outcome::Done(generation(&text)?)),
            _ => Err(unexpected_reply("EVALSHA").into()),
        }
    }

    fn script(&self, change: &Change<'_>) -> (&Script, Vec<String>) {
        let text = |number: u64| number.to_string();
        let until = |entry: &Entry| text(micros(entry.until));
        let (now, kept) = (text(change.now), text(kept_for()));
        match &change.operation {
            Operation::Enter {
                entry,
                began,
                limit,
            } => {
                let (time, generation) = match began {
                    Began::At(time) => (text(*time), String::new()),
                    Began::In(generation) => (String::new(), text(*generation)),
                };
                let arguments = vec![
                    now,
                    kept,
                    entry.handle.to_string(),
                    until(entry),
                    text(change.reserved_until()),
                    time,
                    generation,
                    limit.map_or(0, |limit| limit.max(1)).to_string(),
                    text(RAISE),
                ];
                (&self.enter, arguments)
            }
            Operation::Confirm { handle, entered_in } => {
                let (handle, entered_in) = (handle.to_string(), text(entered_in.number()));
                let arguments = vec![now, kept, handle, entered_in, text(RAISE)];
                (&self.confirm, arguments)
            }
            Operation::Extend(entry) => {
                let arguments = vec![now, entry.handle.to_string(), until(entry)];
                (&self.extend, arguments)
            }
            Operation::BeginGeneration { at } => {
                (&self.begin_generation, vec![now, kept, text(*at)])
            }
            Operation::Leave(entries) => {
                let mut arguments = vec![now];
                for entry in *entries {
                    arguments.extend([entry.handle.to_string(), until(entry)]);
                }
                (&self.leave, arguments)
            }
        }
    }
}

/// The generation in a reply.
fn generation(reply: &Value) -> Result<Generation, StoreError> {
    let number = match reply {
        Value::BulkString(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|it| it.parse().ok()),
        _ => None,
    };
    number
        .map(Generation::from_number)
        .ok_or_else(|| unexpected_reply("EVALSHA"))
}
