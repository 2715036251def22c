//! Colours, where there is a terminal to show them and nobody has asked for none (`NO_COLOR`).

use std::io::IsTerminal;

/// Paints text, or leaves it as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// No colours.
    #[must_use]
    pub const fn plain() -> Self {
        Paint { on: false }
    }

    /// Colours.
    #[must_use]
    pub const fn colour() -> Self {
        Paint { on: true }
    }

    /// Colours if standard output is a terminal.
    #[must_use]
    pub fn for_stdout() -> Self {
        Paint {
            on: std::io::stdout().is_terminal() && wanted(),
        }
    }

    /// Colours if standard error is a terminal.
    #[must_use]
    pub fn for_stderr() -> Self {
        Paint {
            on: std::io::stderr().is_terminal() && wanted(),
        }
    }

    /// For headings.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// For what explains.
    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// For what is wrong.
    #[must_use]
    pub fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    /// For what holds.
    #[must_use]
    pub fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    /// For what deserves a look.
    #[must_use]
    pub fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    /// For names.
    #[must_use]
    pub fn cyan(self, text: &str) -> String {
        self.with("36", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if !self.on || text.is_empty() {
            return text.to_owned();
        }
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

fn wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
