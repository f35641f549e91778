//! Where names lead in these tests, which ask no network.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use api::Webhooks;
use futures::future::BoxFuture;
use webhook::{Guard, Policy, Resolve, Sealer};

const ANSWERS: &str = ".answers.example";

/// Says of `silent.example` nothing, of `nowhere.example` that there is no such name, of names made by [`leading_to`] what
/// they were made for, and of all others a public address.
#[derive(Default)]
pub(crate) struct Names {
    asked: Mutex<Vec<String>>,
}

impl Names {
    /// The names that were asked for, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(host.to_owned());
        Box::pin(async move {
            match host {
                "silent.example" => std::future::pending().await,
                "nowhere.example" => Err(io::ErrorKind::NotFound.into()),
                _ => match host.strip_suffix(ANSWERS) {
                    Some(addresses) => Ok(addresses.split('.').map(address).collect()),
                    None => Ok(vec!["93.184.215.14".parse().unwrap()]),
                },
            }
        })
    }
}

/// A name with these addresses.
pub(crate) fn leading_to(addresses: &[IpAddr]) -> String {
    let label = |address: &IpAddr| match address {
        IpAddr::V4(address) => format!("{:08x}", address.to_bits()),
        IpAddr::V6(address) => format!("{:032x}", address.to_bits()),
    };
    format!("{}{ANSWERS}", addresses.iter().map(label).collect::<Vec<_>>().join("."))
}

fn address(label: &str) -> IpAddr {
    match label.len() {
        8 => IpAddr::V4(u32::from_str_radix(label, 16).unwrap().into()),
        _ => IpAddr::V6(u128::from_str_radix(label, 16).unwrap().into()),
    }
}

/// Webhooks that may go to the public internet and to `allowed`.
pub(crate) fn webhooks(names: &Arc<Names>, allowed: &[&str]) -> Webhooks {
    let policy = Policy { allowed: allowed.iter().map(|network| network.parse().unwrap()).collect() };
    Webhooks { guard: Guard::with_resolver(policy, Arc::<Names>::clone(names)), sealer: Sealer::new([7; 32]) }
}
