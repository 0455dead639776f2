import type { Observed, Route } from "../resource.ts";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "./probe.ts";

export const routeProbe: Probe<Observed<Route>> = {
  id: "edgeseal:route",
  parts: { connection: `printf '%s\\n' "\${SSH_CONNECTION-}"` },
  parse: (parts) => ({ outcome: "present", state: parseRoute(parts) }),
};

function parseRoute(parts: Readonly<Record<string, PartOutput>>): Route {
  const text = outputOf(parts, "connection").trim();
  // sshd(8), ENVIRONMENT: client address, client port, server address, server port.
  const [clientAddress, clientPort, serverAddress, serverPort, ...rest] = text.split(" ");
  if (clientAddress === undefined || clientAddress === "") {
    return {
      clientAddress: undefined,
      clientPort: undefined,
      serverAddress: undefined,
      serverPort: undefined,
    };
  }
  if (serverAddress === undefined || rest.length > 0) {
    throw new UnknownObservation(
      `SSH_CONNECTION on the device does not read as sshd writes it: '${text.slice(0, 100)}'`,
    );
  }
  return {
    clientAddress: withoutZone(clientAddress),
    clientPort: port(clientPort),
    serverAddress: withoutZone(serverAddress),
    serverPort: port(serverPort),
  };
}

function port(text: string | undefined): number | undefined {
  const value = Number(text);
  return Number.isInteger(value) && value > 0 && value < 65536 ? value : undefined;
}

/** A link-local address comes with its interface (`fe80::1%eth0`), which no packet carries. */
function withoutZone(address: string): string {
  return address.replace(/%.*$/, "");
}
