//! Counts the commands that a client sends, of which each is an array of strings.

/// Where in a stream of commands the bytes so far end.
#[derive(Debug, Default)]
pub struct Commands {
    line: Vec<u8>,
    /// The bytes of a string that are still to come, with its end of line.
    skip: usize,
}

impl Commands {
    /// How many commands begin in these bytes.
    pub fn begun_in(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        while let Some(first) = bytes.first() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.line.push(*first);
            bytes = &bytes[1..];
            if let Some(line) = self.line.strip_suffix(b"\r\n") {
                match line.split_first() {
                    Some((b'*', _)) => begun += 1,
                    Some((b'$', length)) => {
                        let length = std::str::from_utf8(length).unwrap_or("0");
                        self.skip = length.parse::<usize>().unwrap_or(0) + 2;
                    }
                    _ => {}
                }
                self.line.clear();
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_counted_wherever_the_stream_is_cut() {
        let stream = b"*2\r\n$3\r\nGET\r\n$7\r\n*1\r\n$1a\r\n*1\r\n$4\r\nPING\r\n";
        for cut in 0..=stream.len() {
            let mut commands = Commands::default();
            let (before, after) = stream.split_at(cut);
            assert_eq!(commands.begun_in(before) + commands.begun_in(after), 2);
        }
    }
}
