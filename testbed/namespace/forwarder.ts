/**
 * Runs in the operator's network namespace: accepts on a listening socket handed over from the host's namespace and connects to the node's sshd from a
 * given source address, so that the node's firewall sees a real packet from a real neighbour. Ends with its parent.
 */
import { connect, type Server } from "node:net";

interface Route {
  /** Source address of the forwarded connections. */
  readonly from: string;
  readonly to: string;
}

process.on("message", (route: Route, server: Server | undefined) => {
  if (server === undefined) return;
  server.on("connection", (incoming) => {
    incoming.setNoDelay(true);
    const outgoing = connect({ host: route.to, port: 22, localAddress: route.from, noDelay: true });
    incoming.pipe(outgoing).pipe(incoming);
    incoming.on("error", () => outgoing.destroy());
    incoming.on("close", () => outgoing.destroy());
    outgoing.on("error", () => incoming.destroy());
    outgoing.on("close", () => incoming.destroy());
  });
  process.send?.("forwarding");
});
process.on("disconnect", () => process.exit(0));
process.send?.("up");
