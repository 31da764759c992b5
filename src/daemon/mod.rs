//! stub
pub mod connection;
pub mod control;
pub mod identity;
pub mod runtime;
pub mod store;
