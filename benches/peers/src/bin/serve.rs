//! One peer as a process.

fn main() -> sessile_peers::Result<()> {
    sessile_peers::serve::main(String::new)
}
