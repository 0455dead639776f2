import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Command } from "commander";
import { UserError } from "./errors.ts";

interface Options {
  readonly stack?: string;
  readonly file?: string;
  readonly siteFile?: string;
  readonly json?: true;
}

const checkout = fileURLToPath(new URL("..", import.meta.url));
/** An exported state of a thousand resources is some megabytes; Node's own limit for captured output is one. */
const maxExportBytes = 256 * 1024 * 1024;

export function register(program: Command): void {
  program
    .command("report")
    .description(
      "Show every control on every node, with the evidence as observed; exit status 1 when one is not met",
    )
    .option("-s, --stack <name>", "the stack to report on (default: the selected one)")
    .option(
      "--file <export.json>",
      "an exported state, as `pulumi stack export` writes it, in place of a stack",
    )
    .option("--site-file <site.yaml>", "hold the state against the nodes and waivers of this site file")
    .option("--json", "as JSON, for other programs")
    .action(report);
}

async function report(options: Options): Promise<void> {
  const [{ findingLines, reportFindings }, { failures }, { NotAState }] = await Promise.all([
    import("./report-lines.ts"),
    import("../policies/evaluate.ts"),
    import("../policies/recorded-state.ts"),
  ]);
  const source =
    options.file ?? (options.stack === undefined ? "the selected stack" : `the stack ${options.stack}`);
  const exported = await (options.file === undefined ? exportStack(options.stack) : readExport(options.file));
  const site = options.siteFile === undefined ? undefined : await siteResource(options.siteFile);
  let findings;
  try {
    findings = reportFindings(exported, new Date(), site);
  } catch (error) {
    if (!(error instanceof NotAState)) throw error;
    throw new UserError(`${source}: ${error.message}`, {
      hint: "expected what `pulumi stack export` writes",
    });
  }
  if (findings.length === 0) {
    throw new UserError(`${source} has no node`, { hint: "apply the site first: pulumi up" });
  }
  if (options.json) console.log(JSON.stringify(findings, undefined, 2));
  else for (const line of findingLines(findings, process.stdout.columns || 120)) console.log(line);
  if (failures(findings).length > 0) process.exitCode = 1;
}

async function exportStack(stack: string | undefined): Promise<string> {
  const words = ["stack", "export", ...(stack === undefined ? [] : ["--stack", stack])];
  try {
    const { stdout } = await promisify(execFile)("pulumi", words, {
      cwd: checkout,
      maxBuffer: maxExportBytes,
    });
    return stdout;
  } catch (error) {
    const { stderr = "", message } = error as Error & { readonly stderr?: string };
    throw new UserError(`pulumi ${words.join(" ")}: ${stderr.trim() || message}`, { cause: error });
  }
}

async function readExport(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw new UserError(`${file} can't be read: ${(error as Error).message}`, { cause: error });
  }
}

/** A site file as the Site component would record it. */
async function siteResource(file: string) {
  const { readSiteOrRefuse } = await import("./site.ts");
  const { recordedSite } = await import("../components/site-file/judged-site.ts");
  return recordedSite(await readSiteOrRefuse(file));
}
