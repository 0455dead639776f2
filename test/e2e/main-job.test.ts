import { testChapter } from "./demo-chapter.ts";

testChapter("main-job");
