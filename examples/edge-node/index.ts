import * as pulumi from "@pulumi/pulumi";
import { EdgeNode, type NodeWaiver } from "../../components/edge-node.ts";

const config = new pulumi.Config();

/** What is not set up here, or nothing enforces yet: an exception each, with an owner and an end. */
const later = [
  "1.measured-boot",
  "1.tpm",
  "2.sealed-volumes",
  "2.unsealing-capped",
  "3.memory-locked",
  "4.rootless-container",
  "4.seccomp",
  "4.apparmor",
  "5.mtls",
  "6.signed-images",
  "6.supply-chain-checks",
  "7.prompts-sanitized",
  "7.no-raw-prompts",
  "7.differential-privacy",
  "8.signed-logs",
  "8.encrypted-local-copy",
  "9.incident-response",
  "9.key-revocation",
].map((control): NodeWaiver => ({
  control,
  reason: "Not set up, or no resource serves it yet",
  owner: "platform-team",
  expires: "2027-06-30",
}));

const node = new EdgeNode("pi-1", {
  connection: {
    // The connection may come from anywhere: configuration, another resource, another stack.
    address: config.require("address"),
    hostKey: config.require("hostKey"),
    privateKey: config.requireSecret("sshKey"),
  },
  firewall: {
    management: ["192.0.2.0/24"],
    allow: [{ name: "model-store", to: "203.0.113.5", ports: [443], comment: "Model downloads" }],
  },
  waivers: later,
});

/** What was read back from the device. */
export const activeSwap = node.swap.activeAreas;
export const signedBoot = node.boot.signedBits;
