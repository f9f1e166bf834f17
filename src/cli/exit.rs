//! Exit codes: the only list of them; the manual prints it.

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok,
    Failure,
    Usage,
    BadConfig,
}

impl Exit {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Failure, Self::Usage, Self::BadConfig];

    /// The number that the parent process sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::BadConfig => 3,
        }
    }

    /// What the number means, for the manual.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => {
                "Success. For run: stopped by a signal, everything read is delivered or \
                         will be read again."
            }
            Self::Failure => {
                "A fault at run time: the data directory cannot be used or another \
                              log-capturer holds it, an address is taken, a thread ended."
            }
            Self::Usage => "Arguments that are not understood.",
            Self::BadConfig => {
                "The config cannot be read or has mistakes; all of them are \
                                listed on standard error. A restart without a change cannot help."
            }
        }
    }
}
