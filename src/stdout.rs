//! Standard output that ends the program quietly when its reader has gone: `wsgate status | head`.

use std::fmt;
use std::io::{self, Write};

/// Writes to standard output. If the reader has closed its end, the program ends with status 0: it has been told enough.
pub(crate) fn write(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let result = out.write_fmt(text).and_then(|()| out.flush());
    if result.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        std::process::exit(0);
    }
}

/// `println!` for a reader that may go away.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::stdout::write(format_args!("{}\n", format_args!($($text)*)))
    };
}
pub(crate) use say;
