//! The pure parts of weightsd: nothing here opens a file or a socket, so all of it can be tested as arithmetic.

#![forbid(unsafe_code)]

pub mod adapter;
pub mod assemble;
pub mod audit;
pub mod axes;
pub mod budget;
pub mod card;
pub mod catalogue;
pub mod derive;
pub mod explain;
pub mod family;
pub mod ggml;
pub mod gguf;
pub mod gguf_files;
pub mod handoff;
pub mod header;
pub mod hub_env;
pub mod identity;
pub mod impostor;
pub mod index;
pub mod ingredients;
pub mod json;
pub mod layer_name;
pub mod layers;
pub mod listing;
pub mod llama_cpp;
pub mod naming;
pub mod origin;
pub mod parts;
pub mod pattern;
pub mod place;
pub mod places;
pub mod policy;
pub mod preferred;
pub mod quantisation;
pub mod resemblance;
pub mod rewrite;
pub mod select;
pub mod sheet;
pub mod shown;
pub mod source;
pub mod spec;
pub mod table;
pub mod tool;
pub mod weight_name;
