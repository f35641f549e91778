//! The program `augur` as people run it: the real binary, real files, real signals, real servers.

mod cut_short;
mod demo;
mod doctor;
mod follow;
mod hub;
mod keys;
mod models;
mod once;
mod postgres;
mod predict;
mod prune;
mod pull;
mod quantize;
mod receiver;
mod serve;
mod served;
mod settings;
mod tiny;
mod tiny_image;
mod versions;
mod webhooks;
