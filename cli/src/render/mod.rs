//! What people and scripts are shown: aligned tables, JSON, and numbers in units that fit.

mod json;
mod paint;
mod table;
mod units;

pub use json::{bytes_field, receipt_json, receipt_line};
pub use paint::Paint;
pub use table::{Align, Table};
pub use units::{count, latency, percent, rate, span};
