//! LeRobot datasets.
