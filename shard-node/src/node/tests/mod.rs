//! The node over a memory disk, with scripted cores where one behaviour is looked at, with the real one for whole stories.

mod admission;
mod cluster;
mod disk;
mod fake;
mod idle;
mod reads;
mod snapshots;
mod two_groups;
mod watches;
mod writes;
