import { addressFault } from "../../components/site-file/address.ts";
import type { Connection } from "../../provider/connection.ts";
import { DeviceError } from "../../provider/device/errors.ts";
import { parseHostKeyPin } from "../../provider/device/host-key.ts";
import { scanHostKey } from "../../provider/device/scan-host-key.ts";
import { askShown, canAsk, Interrupted } from "../ask.ts";
import { UserError } from "../errors.ts";
import { withInterruption } from "../interruption.ts";
import { connectionOf } from "../site-node.ts";
import { compareHostKey, type ComparedHostKey, type ComparisonWorld } from "./compare-host-key.ts";
import { endorsementFault, requireCheckLine, type Expectation } from "./comparison.ts";
import { missingByPoint, type PointMissing } from "./missing.ts";
import { blockLines, withTpm, type NodeBlock } from "./node-block.ts";
import { exitStatus, type AddOptions } from "./options.ts";
import { readDevice, type DeviceReading } from "./read-device.ts";
import { contactJson, contactLines } from "./report.ts";
import { SiteTarget, type SiteFacts } from "./site-target.ts";

/** What first contact does with the world; given, so that tests need neither device nor terminal. */
export interface World extends ComparisonWorld {
  readonly read: typeof readDevice;
  readonly now: () => Date;
}

const theWorld: World = {
  scan: scanHostKey,
  canAsk,
  ask: askShown,
  read: readDevice,
  now: () => new Date(),
};

/** All that first contact with a device came to. */
export interface Contact {
  readonly connection: Connection;
  readonly compared: ComparedHostKey;
  readonly reading: DeviceReading;
  /** The node's item of `nodes:`, line by line. */
  readonly lines: readonly string[];
  readonly missing: readonly PointMissing[];
  /** The site file that it was, or with --dry-run would be, written to. */
  readonly siteFile: string | undefined;
  readonly wrote: boolean;
}

/**
 * First contact with a device that is to become a node: has its host key compared, reads what it is, and writes its block.
 * @throws UserError, DeviceError, Interrupted
 */
export async function addNode(address: string, options: AddOptions, world: World = theWorld): Promise<void> {
  await withInterruption(async (signal) => {
    try {
      report(await makeContact(address, options, world, signal), options);
    } catch (error) {
      // Whatever was under way, it is the person who ended it.
      if (signal.aborted) throw new Interrupted("interrupted");
      // Who answers now is not who was compared.
      if (error instanceof DeviceError && error.kind === "hostKeyMismatch")
        process.exitCode = exitStatus.notExpected;
      throw error;
    }
  });
}

async function makeContact(
  address: string,
  options: AddOptions,
  world: World,
  signal: AbortSignal,
): Promise<Contact> {
  requireAddress(address);
  const expectation = expectationOf(options);
  const target = new SiteTarget(options.site);
  const shared = await target.facts();
  const port = options.port ?? (typeof shared.port === "number" ? shared.port : 22);
  const name = options.name ?? "new-node";
  await target.requireRoomFor({ name, address, port });
  const placed = (hostKey: string) =>
    target.with(name, plainLines(blockOf(address, { name, hostKey, options, shared })));
  // Before anybody compares anything: faults of the options and of the site file are told now.
  await placed(placeholder);

  const label = options.name ?? address;
  const compared = await compareHostKey({ node: label, address, port }, expectation, world, signal);
  const { key } = compared;
  const hostKey = `${key.type} ${key.blob.toString("base64")}`;
  const connection = await connectionOf((await placed(hostKey)).spec, options.stack);
  const reading = await world.read({ ...connection, node: label }, { signal });
  requireExpectedTpm(compared, reading);

  const named = options.name ?? nameFrom(reading.system.hostName);
  const block = withTpm(blockOf(address, { name: named, hostKey, options, shared }), reading, shared.hasKeys);
  const lines = blockLines(block, reading, world.now());
  // Read anew: somebody may have changed the file while somebody compared.
  const { judged, waivers, text } = await target.with(named, lines);
  const missing = missingByPoint(reading, judged, waivers, world.now());
  signal.throwIfAborted();
  const wrote = target.file !== undefined && options.dryRun !== true;
  if (wrote) await target.write(text);
  return {
    connection: { ...connection, node: named },
    compared,
    reading,
    lines,
    missing,
    siteFile: target.file,
    wrote,
  };
}

/** Has the form of a host key, and is none: no connection is made with it. */
const placeholder = `SHA256:${"A".repeat(43)}`;

function requireAddress(address: string): void {
  const fault = addressFault(address);
  if (fault === undefined) return;
  throw new UserError(fault.replace("; write `address:", "; give `address:"), {
    hint: "a port is given with --port, a user with --user",
  });
}

function expectationOf({ hostKey, expect }: AddOptions): Expectation {
  const pin = hostKey === undefined ? undefined : parseHostKeyPin(hostKey);
  if (hostKey !== undefined && pin === undefined)
    throw new UserError(`--host-key takes a key or a fingerprint, got '${hostKey}'`, {
      hint: "give what `cat /etc/ssh/ssh_host_ed25519_key.pub` shows on the device's console, or its `SHA256:` fingerprint",
    });
  return {
    ...(pin === undefined ? {} : { pin }),
    ...(expect === undefined ? {} : { line: requireCheckLine(expect) }),
  };
}

interface BlockParts {
  readonly name: string;
  readonly hostKey: string;
  readonly options: AddOptions;
  readonly shared: SiteFacts;
}

/** The node's block, without what the site gives all of its nodes. */
function blockOf(address: string, { name, hostKey, options, shared }: BlockParts): NodeBlock {
  const { port, user, identityFile } = options;
  return {
    name,
    address,
    ...(port === undefined || port === (shared.port ?? 22) ? {} : { port }),
    ...(user === undefined || user === shared.user ? {} : { user }),
    ...(identityFile === undefined || identityFile === shared.identityFile ? {} : { identityFile }),
    // Either would come before the file.
    ...(identityFile === undefined || shared.privateKey === undefined ? {} : { privateKey: null }),
    ...(identityFile === undefined || shared.identityCommand === undefined ? {} : { identityCommand: null }),
    hostKey,
  };
}

/** The block in one line of JSON, which is YAML. */
const plainLines = (block: NodeBlock): readonly string[] => [`- ${JSON.stringify(block)}`];

function requireExpectedTpm({ line }: ComparedHostKey, { identity }: DeviceReading): void {
  const fault = line === undefined ? undefined : endorsementFault(line, identity.endorsementKey);
  if (fault === undefined) return;
  process.exitCode = exitStatus.notExpected;
  throw new UserError(fault, {
    hint:
      identity.trouble ??
      "nothing was written, and nothing was changed on the device; run first-contact on its console again and compare",
  });
}

/** A node's name made of the device's host name, which may be no DNS label. */
function nameFrom(hostName: string): string {
  const label = hostName
    .toLowerCase()
    .replace(/\..*$/, "")
    .replaceAll(/[^a-z0-9-]+/g, "-")
    .slice(0, 63)
    .replaceAll(/^-+|-+$/g, "");
  return label === "" ? "new-node" : label;
}

function report(contact: Contact, { json }: AddOptions): void {
  if (json) {
    console.log(JSON.stringify(contactJson(contact), undefined, 2));
    return;
  }
  // The block alone is standard output: it can be redirected into a file.
  for (const text of contactLines(contact)) console.error(text);
  if (contact.wrote) console.log(`added node ${contact.connection.node} to ${contact.siteFile ?? ""}`);
  else for (const text of contact.lines) console.log(text);
}
