//! One ticket in the hands of this process, and the duty to say what became of it.

use crate::Handled;
use prediction::Ticket;

/// A ticket that a stream handed out. It is settled exactly once: dropped unsettled, it is returned.
pub(crate) struct Delivery {
    ticket: Ticket,
    settle: Option<Box<dyn FnOnce(Handled) + Send>>,
}

impl Delivery {
    pub(crate) fn new(ticket: Ticket, settle: impl FnOnce(Handled) + Send + 'static) -> Self {
        Self { ticket, settle: Some(Box::new(settle)) }
    }

    pub(crate) fn ticket(&self) -> &Ticket {
        &self.ticket
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
