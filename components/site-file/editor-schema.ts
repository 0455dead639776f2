import { nullable, plain } from "./schema-parts.ts";
import { siteSchema } from "./schema.ts";

/** JSON Schema of a site file, for editors: `stacks/site.schema.json`. Where null removes a default, null is allowed. */
export function siteJsonSchema(): object {
  return {
    $schema: "http://json-schema.org/draft-07/schema#",
    title: "edgeseal site",
    ...(nullable(plain(siteSchema), false) as object),
  };
}

/** The schema as `stacks/site.schema.json` has it. */
export const editorSchemaText = (): string => `${JSON.stringify(siteJsonSchema(), undefined, 2)}\n`;
