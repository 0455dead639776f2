import { spawn } from "node:child_process";
import { mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { parseDocument, stringify } from "yaml";

/** One run of a command line. A run that failed is a result: what it means is for the caller to say. */
export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly milliseconds: number;
}

/** All that a run printed. */
export const said = ({ stdout, stderr }: RunResult): string => stdout + stderr;

export interface RunOptions {
  readonly signal?: AbortSignal;
  /** Called with the process as soon as it runs. */
  readonly onStart?: (pid: number) => void;
  readonly env?: Readonly<Record<string, string>>;
}

/** What of the checkout a Pulumi project consists of; everything else stays out of a workspace. */
const projectParts = [
  "Pulumi.yaml",
  "package.json",
  "index.ts",
  "node_modules",
  "components",
  "policies",
  "provider",
];

/**
 * A Pulumi project with a backend, home folder and stacks of its own: this checkout's program and provider by symbolic link, state and configuration in
 * a scratch folder. Neither the user's Pulumi account nor the checkout is touched.
 */
export class PulumiWorkspace {
  readonly folder: string;
  readonly #checkout: string;
  readonly #project: string;
  readonly #env: NodeJS.ProcessEnv;

  private constructor(checkout: string, folder: string, project: string, env: NodeJS.ProcessEnv) {
    this.folder = folder;
    this.#checkout = checkout;
    this.#project = project;
    this.#env = env;
  }

  /**
   * @param checkout Absolute path of the edgeseal checkout.
   * @param folder An empty, writable folder.
   */
  static async create(checkout: string, folder: string): Promise<PulumiWorkspace> {
    const project = join(folder, "project");
    await Promise.all(
      ["state", "home", "project/stacks"].map((each) => mkdir(join(folder, each), { recursive: true })),
    );
    await Promise.all(projectParts.map((part) => symlink(join(checkout, part), join(project, part))));
    return new PulumiWorkspace(checkout, folder, project, {
      ...process.env,
      PULUMI_HOME: join(folder, "home"),
      PULUMI_BACKEND_URL: `file://${join(folder, "state")}`,
      // The scratch state holds no secret of anybody's.
      PULUMI_CONFIG_PASSPHRASE: "scratch",
      PULUMI_SKIP_UPDATE_CHECK: "true",
      PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION: "true",
      NO_COLOR: "1",
    });
  }

  /** Makes the stack when it is new, and (re)writes its site file. Returns the site file's path. */
  async site(stack: string, site: object): Promise<string> {
    const path = join(this.#project, "stacks", `${stack}.yaml`);
    const isNew = await readFile(path, "utf8").then(
      () => false,
      () => true,
    );
    await writeFile(path, stringify(site));
    if (isNew) {
      const made = await this.run(["stack", "init", stack]);
      if (made.code !== 0)
        throw new Error(`pulumi stack init ${stack} failed:\n${made.stdout}${made.stderr}`);
      const set = await this.run(["config", "set", "edgeseal:siteFile", path, "--stack", stack]);
      if (set.code !== 0) throw new Error(`pulumi config set failed:\n${set.stdout}${set.stderr}`);
    }
    return path;
  }

  /**
   * Runs the Pulumi CLI to its end.
   * @throws an AbortError once the CLI has ended, when `signal` was aborted; an Error when it can't be started
   */
  run(words: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return this.#run("pulumi", [...words, "--non-interactive", "--color=never"], options);
  }

  /**
   * Runs edgeseal's own command line to its end, in the project's folder.
   * @throws as `run`
   */
  edgeseal(words: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    const main = join(this.#checkout, "cli/main.ts");
    return this.#run(process.execPath, ["--disable-warning=ExperimentalWarning", main, ...words], options);
  }

  async #run(program: string, words: readonly string[], options: RunOptions): Promise<RunResult> {
    const started = performance.now();
    const child = spawn(program, words, {
      cwd: this.#project,
      env: { ...this.#env, ...options.env },
      stdio: ["ignore", "pipe", "pipe"],
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    if (child.pid !== undefined) options.onStart?.(child.pid);
    // Aborted, it is told to end, and does so in its own time: until then it writes to its folder.
    let fault: Error | undefined;
    child.on("error", (error) => (fault = error));
    const closed = new Promise<number | null>((resolve) => void child.once("close", resolve));
    const [stdout, stderr, code] = await Promise.all([text(child.stdout), text(child.stderr), closed]);
    if (fault !== undefined) throw fault;
    return { code: code ?? 128, stdout, stderr, milliseconds: performance.now() - started };
  }

  /** The stack's recorded state, as `pulumi stack export` gives it: secrets stay encrypted. */
  async export(stack: string): Promise<string> {
    const result = await this.run(["stack", "export", "--stack", stack]);
    if (result.code !== 0) throw new Error(`pulumi stack export failed:\n${result.stderr}`);
    return result.stdout;
  }
}

/** A site file of the checkout as plain data. */
export async function readSite(path: string): Promise<Record<string, unknown>> {
  return parseDocument(await readFile(path, "utf8")).toJS() as Record<string, unknown>;
}
