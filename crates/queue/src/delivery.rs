//! Tickets in the hands of this process, and the duty to say what became of them.

use crate::{Handled, Slots};
use prediction::Ticket;

/// Tickets that were handed out together. They are settled exactly once: dropped unsettled, they are returned.
pub(crate) struct Delivery {
    tickets: Vec<Ticket>,
    slots: Option<Slots>,
    settle: Option<Box<dyn FnOnce(Handled) + Send>>,
}

impl Delivery {
    /// `slots`: one for each ticket.
    pub(crate) fn new(tickets: Vec<Ticket>, slots: Slots, settle: impl FnOnce(Handled) + Send + 'static) -> Self {
        Self { tickets, slots: Some(slots), settle: Some(Box::new(settle)) }
    }

    /// What its handler is called with, for whoever asks first.
    pub(crate) fn hand_over(&mut self) -> Option<(Vec<Ticket>, Slots)> {
        let slots = self.slots.take()?;
        Some((std::mem::take(&mut self.tickets), slots))
    }

    pub(crate) fn settle(mut self, handled: Handled) {
        if let Some(settle) = self.settle.take() {
            settle(handled);
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle(Handled::Returned);
        }
    }
}
