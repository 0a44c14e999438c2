//! How a command fails, and the exit code that says so: 1 the answer is "no", 2 wrong usage, 3 a dependency is
//! unreachable. Whatever is not one of these exits with 1 too: an unexpected error is never a "yes".

use std::process::ExitCode;

/// A failure whose exit code is not the general one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The answer is "no": a check failed, and what it found has been printed or stands here.
    #[error("{0}")]
    No(String),
    /// The command or the configuration is not what it can be.
    #[error("{0}")]
    Usage(String),
    /// Something that the command needs does not answer.
    #[error("{0}")]
    Unreachable(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::No(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }
}

/// The exit code of `error`.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(error.downcast_ref::<Failure>().map_or(1, Failure::code))
}

/// One clear sentence: the error and its causes, each once.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if parts.last().is_none_or(|last| !last.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_context() {
        let error = anyhow::Error::from(Failure::Usage("no such flag".into())).context("cannot start");
        assert_eq!(format!("{:?}", exit_code(&error)), format!("{:?}", ExitCode::from(2)));
        assert_eq!(sentence(&error), "cannot start: no such flag");
    }
}
