import { readdir, writeFile } from "node:fs/promises";
import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import type { SiteSpec } from "../components/site-file/read.ts";
import { UserError } from "./errors.ts";

const stacks = fileURLToPath(new URL("../stacks/", import.meta.url));
const schemaFile = `${stacks}site.schema.json`;

export function register(program: Command): void {
  const site = program
    .command("site")
    .description("Check site files, and write the schema that editors check them with");
  site
    .command("check")
    .description(
      "Check a site file and hold it against the checklist, offline; all of stacks/ without a stack",
    )
    .argument("[stack]", "name of the stack: checks stacks/<stack>.yaml")
    .option("--site-file <site.yaml>", "check this file")
    .option("--json", "as JSON, for other programs")
    .action(check);
  site
    .command("schema")
    .description("Print the JSON Schema of a site file")
    .option("--write", "write it to stacks/site.schema.json")
    .action(schema);
}

interface CheckOptions {
  readonly siteFile?: string;
  readonly json?: true;
}

async function check(stack: string | undefined, options: CheckOptions): Promise<void> {
  const { checkSite } = await import("./site-check.ts");
  const files = await filesToCheck(stack, options.siteFile);
  const results = files.map((file) => checkSite(file, new Date()));
  if (options.json)
    console.log(
      JSON.stringify(
        results.map(({ lines: _, ...rest }) => rest),
        undefined,
        2,
      ),
    );
  else for (const { lines } of results) for (const line of lines) console.log(line);
  if (results.some(({ passes }) => !passes)) process.exitCode = 1;
}

async function filesToCheck(stack: string | undefined, siteFile: string | undefined): Promise<string[]> {
  if (stack !== undefined && siteFile !== undefined) {
    throw new UserError("give a stack or --site-file, not both");
  }
  if (siteFile !== undefined) return [siteFile];
  if (stack !== undefined) return [shown(`${stacks}${stack}.yaml`)];
  const names = (await readdir(stacks)).filter((name) => name.endsWith(".yaml")).sort();
  if (names.length === 0) throw new UserError("stacks/ has no site file");
  return names.map((name) => shown(`${stacks}${name}`));
}

/** Paths are shown as the reader would type them. */
const shown = (file: string): string => relative(process.cwd(), file);

async function schema(options: { readonly write?: true }): Promise<void> {
  const { editorSchemaText } = await import("../components/site-file/editor-schema.ts");
  if (!options.write) {
    console.log(editorSchemaText().trimEnd());
    return;
  }
  await writeFile(schemaFile, editorSchemaText());
  console.log(`wrote ${shown(schemaFile)}`);
}

/**
 * Reads a site file for a command.
 * @throws UserError with every fault of the file.
 */
export async function readSiteOrRefuse(file: string): Promise<SiteSpec> {
  const { readSite } = await import("../components/site-file/read.ts");
  const { SiteFileError } = await import("../components/site-file/problem.ts");
  try {
    return readSite(file);
  } catch (error) {
    throw error instanceof SiteFileError ? new UserError(error.message, { cause: error }) : error;
  }
}
