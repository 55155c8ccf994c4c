//! Layouts, recognition, overrides and quantisation, through the public interface, on headers alone.

mod coded;
mod common;

mod adapters;
mod all_in_one;
mod configs;
mod control;
mod foreign;
mod overrides;
mod properties;
mod quantised;
