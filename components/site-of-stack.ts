import { fileURLToPath } from "node:url";
import * as pulumi from "@pulumi/pulumi";
import { secretFromConfig } from "./secret-config.ts";
import { SiteFileError } from "./site-file/problem.ts";
import { readSite } from "./site-file/read.ts";
import { siteArgs } from "./site-file/site-args.ts";
import { Site } from "./site.ts";

const stacks = fileURLToPath(new URL("../stacks/", import.meta.url));

/**
 * The site of the current stack: of the file that `edgeseal:siteFile` in Pulumi configuration names, else of `stacks/<stack>.yaml`.
 * @throws pulumi.RunError with every fault of the file, or with every control that fails.
 */
export function siteOfStack(): Site {
  const configured = new pulumi.Config("edgeseal").get("siteFile");
  const file = configured ?? `${stacks}${pulumi.getStack()}.yaml`;
  try {
    const spec = readSite(file);
    return new Site(spec.site, siteArgs(spec, secretFromConfig));
  } catch (error) {
    throw error instanceof SiteFileError ? new pulumi.RunError(error.message) : error;
  }
}
