import type { ResourceKind } from "./resource.ts";

/** Every kind of resource that the provider has. */
export const kinds: readonly ResourceKind[] = [];
