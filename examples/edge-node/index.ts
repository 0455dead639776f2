import * as pulumi from "@pulumi/pulumi";
import { EdgeNode, type NodeWaiver } from "../../components/edge-node.ts";

const config = new pulumi.Config();

/** Exceptions from the checklist, each with an owner and an end. */
const without = (reason: string, controls: readonly string[]): NodeWaiver[] =>
  controls.map((control) => ({ control, reason, owner: "platform-team", expires: "2027-06-30" }));

const waivers = [
  // For these there are `tpm`, `measuredBoot` and `volumes`, which take the site's keys and a disk (docs/trust.md), and `imagePolicy` and `inferenceService`, which take a
  // signed image and a signed model.
  ...without("Not set up on this node yet", [
    "1.measured-boot",
    "1.tpm",
    "2.sealed-volumes",
    "2.unsealing-capped",
    "3.memory-locked",
    "4.rootless-container",
    "4.limits",
    "4.seccomp",
    "4.apparmor",
    "6.signed-images",
    "6.pinned-image",
    "6.signed-model",
  ]),
  ...without("No resource serves this yet", [
    "5.mtls",
    "6.supply-chain-checks",
    "7.prompts-sanitized",
    "7.no-raw-prompts",
    "7.differential-privacy",
    "8.signed-logs",
    "8.encrypted-local-copy",
    "9.incident-response",
    "9.key-revocation",
  ]),
];

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
  // What is said and typed on the node is kept in memory.
  scratch: {},
  waivers,
});

/** What was read back from the device. */
export const activeSwap = node.swap.activeAreas;
export const signedBoot = node.boot.signedBits;
