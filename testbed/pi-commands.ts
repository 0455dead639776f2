import { spawn } from "node:child_process";
import { once } from "node:events";
import { createReadStream, watch } from "node:fs";
import { open, readFile, readdir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { UserError } from "../cli/errors.ts";
import { detectAccelerator } from "./accelerator.ts";
import { cacheFolder, ensureImage, recipeHash } from "./image.ts";
import { nodesFolder, runningNode, runningNodes, type RunningNode } from "./node-folder.ts";
import { profiles } from "./profile.ts";
import { ensureSnapshot } from "./snapshot.ts";
import { startSupervised, supervisorFile } from "./supervisor.ts";
import type { StartOptions } from "./virtual-pi.ts";

const say = (line: string): void => {
  console.log(line);
};

/** Starts a node that stays until `down`. */
export async function up(name: string, options: Pick<StartOptions, "network" | "from">): Promise<void> {
  const started = performance.now();
  const interrupted = new AbortController();
  const interrupt = (): void => {
    interrupted.abort(new UserError("interrupted"));
  };
  process.once("SIGINT", interrupt);
  try {
    await startSupervised({ ...options, name }, say, interrupted.signal);
  } finally {
    process.off("SIGINT", interrupt);
  }
  const { ssh } = await running(name);
  const own = name === "pi" ? "" : ` --name ${name}`;
  say(`${name} is up after ${((performance.now() - started) / 1000).toFixed(1)} s`);
  say(`  address       ${ssh.host}`);
  say(`  port          ${String(ssh.port)}`);
  say(`  user          ${ssh.user} (sudo without a password)`);
  say(`  host key      ${ssh.hostKey}`);
  say(`  identity file ${ssh.identityFile}`);
  say(`log in: ./edgeseal pi ssh${own}   watch: ./edgeseal pi console${own}   end: ./edgeseal pi down${own}`);
}

/** @returns the exit code of ssh, which is that of the command */
export async function ssh(name: string, command: readonly string[]): Promise<number> {
  const { ssh: address, folder } = await running(name);
  const child = spawn("ssh", [...sshOptions(address, folder), "--", ...command], { stdio: "inherit" });
  const [code] = (await once(child, "exit")) as [number | null];
  return code ?? 255;
}

function sshOptions(address: RunningNode["ssh"], folder: string): readonly string[] {
  const set = (option: string): readonly string[] => ["-o", option];
  return [
    ...["-p", String(address.port), "-i", address.identityFile],
    ...set("IdentitiesOnly=yes"),
    ...set(`UserKnownHostsFile="${join(folder, "known_hosts")}"`),
    ...set("StrictHostKeyChecking=yes"),
    // Nothing of the person's own configuration belongs to this node.
    ...["-F", "none"],
    // OpenSSH's default exchange costs seconds under emulation.
    ...set("KexAlgorithms=curve25519-sha256"),
    `${address.user}@${address.host}`,
  ];
}

export async function followConsole(name: string): Promise<void> {
  const { folder } = await running(name);
  const path = join(folder, "console.log");
  const file = await open(path, "r");
  // The folder, since a file that is held open shows no removal of its own.
  const changes = watch(folder);
  const end = Promise.withResolvers<undefined>();
  process.once("SIGINT", () => {
    end.resolve(undefined);
  });
  let position = 0;
  let reading = Promise.resolve();
  const show = (): void => {
    reading = reading.then(async () => {
      for await (const chunk of createReadStream("", { fd: file.fd, start: position, autoClose: false })) {
        position += (chunk as Buffer).length;
        process.stdout.write(chunk as Buffer);
      }
    });
  };
  changes.on("change", (event, changed) => {
    if (changed !== basename(path)) return;
    // Removed with its node.
    if (event === "rename") end.resolve(undefined);
    else show();
  });
  show();
  await end.promise;
  changes.close();
  await reading;
  await file.close();
}

/** @throws UserError when the node is a test's or a demo's: that process would fail, and ends it by itself */
export async function down(name: string): Promise<void> {
  const { folder, owner } = await running(name);
  const commandLine = await readFile(`/proc/${String(owner.pid)}/cmdline`, "utf8");
  if (!commandLine.split("\0").includes(supervisorFile)) {
    throw new UserError(
      `${name} belongs to process ${String(owner.pid)}, which was not started by \`pi up\``,
      {
        hint: "end that process: its node ends with it",
      },
    );
  }
  const removed = disappearance(folder);
  process.kill(owner.pid, "SIGTERM");
  await removed;
  say(`${name} is down`);
}

/** The node's folder goes last. */
async function disappearance(folder: string): Promise<void> {
  const watcher = watch(dirname(folder));
  const gone = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => {
    gone.reject(new Error(`${folder} is still there after 30 s`));
  }, 30_000);
  const look = async (): Promise<void> => {
    if (!(await readdir(dirname(folder))).includes(basename(folder))) gone.resolve(undefined);
  };
  watcher.on("change", () => void look());
  await gone.promise.finally(() => {
    clearTimeout(timer);
    watcher.close();
  });
}

export async function list(): Promise<void> {
  const nodes = await runningNodes();
  if (nodes.length === 0) say("no virtual Pi is running; ./edgeseal pi up starts one");
  for (const { name, ssh: address, owner } of nodes) {
    say(
      `${name.padEnd(16)} ${address.user}@${address.host}:${String(address.port)}  process ${String(owner.pid)}`,
    );
  }
}

export async function image(prune: boolean): Promise<void> {
  const built = await ensureImage({ onProgress: say });
  const accelerator = await detectAccelerator(built);
  const snapshot = await ensureSnapshot(built, accelerator, { onProgress: say });
  say(`image ${built.hash} (${built.profile.arch}) in ${built.folder}`);
  say(
    `its booted snapshot saves a boot of ${(snapshot.bootMs / 1000).toFixed(0)} s (${accelerator}) per node`,
  );
  if (prune) await pruneImages();
}

async function pruneImages(): Promise<void> {
  const images = join(cacheFolder(), "images");
  const current = await Promise.all(Object.values(profiles).map(recipeHash));
  const used = new Set([...current, ...(await runningNodes()).map(({ imageHash }) => imageHash)]);
  for (const entry of await readdir(images, { withFileTypes: true })) {
    // A folder under construction belongs to its builder.
    if (!entry.isDirectory() || !/^[0-9a-f]{16}$/.test(entry.name) || used.has(entry.name)) continue;
    await rm(join(images, entry.name), { recursive: true });
    say(`removed image ${entry.name}`);
  }
}

async function running(name: string): Promise<RunningNode> {
  const node = await runningNode(name);
  if (node) return node;
  const others = (await runningNodes()).map((each) => each.name);
  throw new UserError(`no virtual Pi named "${name}" is running in ${nodesFolder()}`, {
    hint:
      others.length === 0
        ? "`./edgeseal pi up` starts one"
        : `there ${others.length === 1 ? "is" : "are"}: ${others.join(", ")}; choose one with --name`,
  });
}
