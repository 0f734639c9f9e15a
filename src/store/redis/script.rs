//! The compare-and-set that runs inside Redis.

use redis::Value;

use super::pool::{Connections, Failed, Request};

/// One key, constant text. Returns 1 when the value was replaced, 0 when there is none, and otherwise the value that is
/// there, with the milliseconds it has left.
const REPLACE: &str = r"
if ARGV[1] ~= '' and redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return 1
end
local value = redis.call('GET', KEYS[1])
if not value then
  return 0
end
return {value, redis.call('PTTL', KEYS[1])}
";

/// The script and the name that Redis knows it by.
pub(super) struct Script {
    hash: String,
}

impl Script {
    pub(super) fn new() -> Self {
        Self {
            hash: redis::Script::new(REPLACE).get_hash().to_owned(),
        }
    }

    /// The call, by name or with the whole text.
    pub(super) fn call(&self, by_name: bool, key: &str, arguments: &[&[u8]]) -> redis::Cmd {
        let mut command = match by_name {
            true => redis::cmd("EVALSHA"),
            false => redis::cmd("EVAL"),
        };
        command
            .arg(if by_name { &self.hash } else { REPLACE })
            .arg(1)
            .arg(key);
        for argument in arguments {
            command.arg(*argument);
        }
        command
    }

    /// Runs it on the server that has the key. A server that does not know it yet, after a restart or a failover, says so
    /// and has done nothing; it then gets the text.
    pub(super) async fn run(
        &self,
        connections: &Connections,
        key: &str,
        arguments: &[&[u8]],
    ) -> Result<Value, Failed> {
        let by_name = self.call(true, key, arguments);
        match connections.send(&Request::Command(&by_name)).await {
            Err(failed) if failed.code.as_deref() == Some("NOSCRIPT") => {
                let whole = self.call(false, key, arguments);
                connections.send(&Request::Command(&whole)).await
            }
            answer => answer,
        }
    }
}
