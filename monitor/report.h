// SPDX-License-Identifier: Apache-2.0
#ifndef HANDOFF_MONITOR_REPORT_H_
#define HANDOFF_MONITOR_REPORT_H_

#include <string>

#include "monitor/snapshot.h"

namespace handoff {

// A snapshot for people, several lines, and for programs, one JSON object. Sizes are in bytes in
// JSON; its keys are those of the structs.
std::string ReportText(const SessionSnapshot& snapshot);
std::string ReportJson(const SessionSnapshot& snapshot);

}  // namespace handoff

#endif  // HANDOFF_MONITOR_REPORT_H_
