import { DeviceError, type DeviceErrorDetails } from "./errors.ts";

/**
 * sshd refused to open one more session on a connection that otherwise works: its MaxSessions (10 unless configured) is reached, or sessions are
 * forbidden. Nothing ran, so trying again is safe. RFC 4254, 5.1; sshd_config(5), MaxSessions.
 */
export class ChannelRefused extends DeviceError {
  constructor(node: string, details: Partial<DeviceErrorDetails> = {}) {
    super("denied", node, "sshd opens no further session on this connection", {
      hint: "raise MaxSessions in the device's sshd_config (10 is its default), or allow sessions for this key",
      ...details,
    });
  }
}

/** The connection turned out to be gone before the command, or the script on its standard input, was sent. Nothing ran, so trying again is safe. */
export class LostBefore extends DeviceError {
  constructor(node: string, details: Partial<DeviceErrorDetails> = {}) {
    super("unreachable", node, "the connection went away before the command was sent", {
      hint: "nothing was done; run the operation again once the device is reachable",
      ...details,
    });
  }
}
