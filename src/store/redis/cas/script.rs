//! The compare-and-set by a script that runs in Redis.

use redis::Value;

use crate::store::contract::Replaced;
use crate::store::redis::cas::swap::Swap;
use crate::store::redis::channel::Channel;
use crate::store::redis::error::RequestError;
use crate::store::redis::reply::{conflict, is_wrong_type, unexpected_reply};
use crate::store::redis::request::Request;
use crate::store::redis::servers::Servers;

/// It has one key and a constant text. Returns 1 if it replaced the value, 0 if there is no value, and otherwise the current
/// value with its remaining milliseconds. Without a time to live in the third argument it keeps the present one.
const REPLACE: &str = r"
if ARGV[1] ~= '' and redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then
  if ARGV[3] == '' then
    redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
  else
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  end
  return 1
end
local value = redis.call('GET', KEYS[1])
if not value then
  return 0
end
return {value, redis.call('PTTL', KEYS[1])}
";

/// The script, with the hash by which Redis knows it.
pub(crate) struct Script {
    hash: String,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self {
            hash: redis::Script::new(REPLACE).get_hash().to_owned(),
        }
    }

    /// Replaces the value if it is the expected one.
    pub(crate) async fn replace(
        &self,
        channel: &mut Channel<'_>,
        swap: Swap<'_>,
    ) -> Result<Replaced, RequestError> {
        let (expected, value) = (swap.expected.version(), swap.value);
        match self.run(channel, expected, value, swap.ttl).await {
            Ok(Value::Int(1)) => Ok(Replaced::Done),
            Ok(Value::Int(0)) => Ok(Replaced::Gone),
            Ok(Value::Array(answers)) => match <[Value; 2]>::try_from(answers) {
                Ok([value, left]) => Ok(conflict(value, &left)?),
                Err(_) => Err(unexpected_reply("EVALSHA").into()),
            },
            Ok(_) => Err(unexpected_reply("EVALSHA").into()),
            Err(failed) if is_wrong_type(&failed) => Ok(Replaced::Unreadable),
            Err(failed) => Err(failed),
        }
    }

    /// Runs the script by text and by hash, on a key that does not exist.
    pub(crate) async fn probe(&self, servers: &Servers, key: &str) -> Result<(), RequestError> {
        for by_name in [false, true] {
            let command = self.call(by_name, key, b"none", b"", Some(1));
            servers
                .send_idempotent(key, &Request::Command(&command))
                .await?;
        }
        Ok(())
    }

    /// The command that runs the script, by hash or with its text.
    fn call(
        &self,
        by_name: bool,
        key: &str,
        expected: &[u8],
        value: &[u8],
        ttl: Option<u64>,
    ) -> redis::Cmd {
        let (name, script) = match by_name {
            true => ("EVALSHA", self.hash.as_str()),
            false => ("EVAL", REPLACE),
        };
        // The rest is the number of keys and the time to live.
        let len = name.len() + script.len() + key.len() + expected.len() + value.len() + 21;
        let mut command = redis::Cmd::with_capacity(7, len);
        command.arg(name).arg(script).arg("1").arg(key);
        command.arg(expected).arg(value);
        match ttl {
            Some(ttl) => command.arg(ttl),
            None => command.arg(""),
        };
        command
    }

    /// Runs the script on the server that has the key. A server that does not know it yet, after a restart or a failover,
    /// returns NOSCRIPT and changes nothing; it then gets the text.
    async fn run(
        &self,
        channel: &mut Channel<'_>,
        expected: &[u8],
        value: &[u8],
        ttl: Option<u64>,
    ) -> Result<Value, RequestError> {
        let key = channel.key();
        let by_name = self.call(true, key, expected, value, ttl);
        match channel.send(&Request::Command(&by_name)).await {
            Err(failed) if failed.code.as_deref() == Some("NOSCRIPT") => {
                let whole = self.call(false, key, expected, value, ttl);
                channel.send(&Request::Command(&whole)).await
            }
            answer => answer,
        }
    }
}
