# `just` lists the recipes. https://just.systems; each recipe can also be typed by hand.

[private]
default:
    @just --list

# Before each commit: format, lints, layers, core and unit tests. Under two minutes when warm.
quick:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- --deny warnings
    cargo test --locked -p weightsd-core -p weightsd-proto -p weightsd-segment -p weightsd-samples
    cargo test --locked -p weightsd --lib --test layering --test rules

# Before a change lands: everything, as CI runs it. Needs root, Go, npm and Python; up to an hour.
check:
    .ci/run

# Stories about the real daemon: `just stories keeping` runs those of one module.
stories *names:
    cargo test --locked -p weightsd --test stories -- {{ names }}

# The Python tests: `just python -k lending`.
python *arguments:
    .ci/python {{ arguments }}

# A made-up model, a daemon and two clients.
demo:
    cargo run --release -- demo

# The interleavings of shared work and of leases.
model:
    .ci/model

# Miri over what is unsafe, where a nightly toolchain has it.
miri:
    .ci/miri

# Once after cloning: the commit template.
setup:
    git config commit.template .gitmessage
