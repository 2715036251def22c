//! The store's promise, tried on both backends.

mod crash;
mod damage;
mod files;
mod full;
mod group;
mod mirror;
