import { isIP } from "node:net";
import type { Observed, Route } from "../resource.ts";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "./probe.ts";

export const routeProbe: Probe<Observed<Route>> = {
  id: "edgeseal:route",
  parts: { connection: `printf '%s\\n' "\${SSH_CONNECTION-}"` },
  parse: (parts) => ({ outcome: "present", state: parseRoute(parts) }),
};

const unknownRoute: Route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};

function parseRoute(parts: Readonly<Record<string, PartOutput>>): Route {
  const text = outputOf(parts, "connection").trim();
  // sshd(8), ENVIRONMENT: client address, client port, server address, server port; UNKNOWN where sshd could not tell (it runs on no socket).
  const [client = "", clientPort, server = "", serverPort, ...rest] = text.split(" ");
  if (text === "" || client === "UNKNOWN") return unknownRoute;
  const clientAddress = withoutZone(client);
  const serverAddress = withoutZone(server);
  if (isIP(clientAddress) === 0 || isIP(serverAddress) === 0 || rest.length > 0) {
    throw new UnknownObservation(
      `SSH_CONNECTION on the device is not as sshd writes it: '${text.slice(0, 100)}'`,
    );
  }
  return { clientAddress, clientPort: port(clientPort), serverAddress, serverPort: port(serverPort) };
}

function port(text: string | undefined): number | undefined {
  const value = Number(text);
  return Number.isInteger(value) && value > 0 && value < 65536 ? value : undefined;
}

/** A link-local address comes with its interface (`fe80::1%eth0`), which no packet carries. */
function withoutZone(address: string): string {
  return address.replace(/%.*$/, "");
}
