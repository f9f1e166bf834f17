//! Files: discovery, identity, tailing.
