import { siteOfStack } from "./components/site-of-stack.ts";

export const { site, nodes, waived } = siteOfStack().summary;
