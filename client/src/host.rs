//! What the tasks of a client run on.

use tokio::runtime::Handle;

/// A place where tasks run.
#[derive(Debug, Clone)]
pub(crate) enum Host {
    Runtime(Handle),
    #[cfg(feature = "simulation")]
    Simulated(std::sync::Arc<dyn crate::simulation::World>),
}

impl Host {
    /// Runs a future in the background.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        match self {
            Host::Runtime(runtime) => drop(runtime.spawn(future)),
            #[cfg(feature = "simulation")]
            Host::Simulated(world) => world.spawn(Box::pin(future)),
        }
    }
}
