import type { Session } from "../../../provider/device/session.ts";

/** A session with `pi-1` that answers each script as `run` does, on whichever connection. */
export const sessionOf = (run: Session["run"]): Session => ({
  node: "pi-1",
  run,
  runOnNewConnection: run,
  connect: () => Promise.resolve({ node: "pi-1", run }),
  close: () => Promise.resolve(),
  connected: true,
  counts: { connections: 1, execs: 1 },
});
