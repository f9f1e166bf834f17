//! The one integration binary. Each module is a subject; its line says why it is here.

mod loki; // the Loki double answers as a real Loki was recorded to answer
mod support; // what the tests share: doubles, waiting
