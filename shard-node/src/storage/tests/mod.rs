//! The store's promise, tried on both backends.

mod crash;
mod group;
mod mirror;
